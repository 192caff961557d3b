// What a GPU computes in a challenge: koinon_core::challenge::matrix and ::tree say what it has to come to, bit for bit.
//
// The PTX beside this file is made from it by make.py. The test `kernel_source` compiles this file for the CPU, with every CUDA
// word that it uses defined in shim.h, and holds the results against koinon_core.

typedef unsigned int u32;

// Rows and columns of a tile, words of depth that are worked on at once, and threads of a block along each side of a tile.
#define TILE 128
#define DEPTH 16
#define SIDE 16
#define EACH (TILE / SIDE)

static __device__ __forceinline__ u32 mix(u32 x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// Each byte of a word shifted right by one, as a signed number.
static __device__ __forceinline__ u32 numbers(u32 word)
{
    u32 seven = (word >> 1) & 0x7f7f7f7fu;
    return seven | ((seven & 0x40404040u) << 1);
}

// Adds the four products of the signed bytes of two words: one instruction.
static __device__ __forceinline__ int dot(u32 a, u32 b, int sum)
{
#ifdef __CUDA_ARCH__
    int result;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
#else
    return dp4a(a, b, sum);
#endif
}

// One tile of C a block of SIDE * SIDE threads. `rows` is a multiple of TILE, `words` of DEPTH. Column j of C lies whole from
// c[j * rows], so that threads of neighbouring rows write, and later read, neighbouring words. The grid's y begins at
// `first_tile`, so that a large matrix is made in several short launches.
extern "C" __global__ void __launch_bounds__(SIDE * SIDE)
product(const u32 *a_rows, const u32 *a_columns, const u32 *b_rows, const u32 *b_columns, u32 rows, u32 words, u32 first_tile,
        int *c)
{
    __shared__ u32 a[DEPTH][TILE];
    __shared__ u32 b[DEPTH][TILE];
    const u32 thread = threadIdx.x;
    const u32 x = thread % SIDE, y = thread / SIDE;
    const u32 first_row = blockIdx.x * TILE, first_column = (first_tile + blockIdx.y) * TILE;
    int sums[EACH][EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++)
            sums[i][j] = 0;
    for (u32 q = 0; q < words; q += DEPTH) {
        for (u32 n = thread; n < DEPTH * TILE; n += SIDE * SIDE) {
            const u32 word = n / TILE, at = n % TILE;
            a[word][at] = numbers(mix(a_rows[first_row + at] ^ a_columns[q + word]));
            b[word][at] = numbers(mix(b_rows[q + word] ^ b_columns[first_column + at]));
        }
        __syncthreads();
#pragma unroll 4
        for (int word = 0; word < DEPTH; word++) {
            u32 of_a[EACH], of_b[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                of_a[i] = a[word][x + SIDE * i];
                of_b[i] = b[word][y + SIDE * i];
            }
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sums[i][j] = dot(of_a[i], of_b[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < EACH; j++)
#pragma unroll
        for (int i = 0; i < EACH; i++)
            c[(size_t)(first_column + y + SIDE * j) * rows + first_row + x + SIDE * i] = sums[i][j];
}

static __constant__ u32 ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static __device__ __forceinline__ u32 turned(u32 x, int by)
{
    return (x >> by) | (x << (32 - by));
}

// One block of SHA-256 (FIPS 180-4); w is used up.
static __device__ __forceinline__ void compress(u32 state[8], u32 w[16])
{
    u32 a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
#pragma unroll
    for (int t = 0; t < 64; t++) {
        if (t >= 16) {
            const u32 w15 = w[(t + 1) % 16], w2 = w[(t + 14) % 16];
            const u32 s0 = turned(w15, 7) ^ turned(w15, 18) ^ (w15 >> 3), s1 = turned(w2, 17) ^ turned(w2, 19) ^ (w2 >> 10);
            w[t % 16] += s0 + w[(t + 9) % 16] + s1;
        }
        const u32 s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25), s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
        const u32 t1 = h + s1 + ((e & f) ^ (~e & g)) + ROUND[t] + w[t % 16], t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

// The digest of each row, one row a thread: the first four words of SHA-256 over `head` (15 words), the row's number and the row.
extern "C" __global__ void digest(const u32 *head, const int *c, u32 rows, u32 *leaves)
{
    const u32 row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    u32 state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    // A row is a whole number of blocks: after it come only the end mark and the length in bits.
    const unsigned long long bits = 8 * (64 + 4 * (unsigned long long)rows);
    const u32 blocks = rows / 16;
#pragma unroll 1
    for (u32 block = 0; block <= blocks + 1; block++) {
        u32 w[16];
#pragma unroll
        for (int n = 0; n < 16; n++)
            if (block == 0)
                w[n] = n < 15 ? head[n] : row;
            else if (block <= blocks)
                w[n] = (u32)c[(size_t)(16 * (block - 1) + n) * rows + row];
            else
                w[n] = n == 0 ? 0x80000000u : n == 14 ? (u32)(bits >> 32) : n == 15 ? (u32)bits : 0;
        compress(state, w);
    }
    for (int n = 0; n < 4; n++)
        leaves[4 * (size_t)row + n] = state[n];
}
