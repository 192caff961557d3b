// The words of CUDA that challenge.cu uses, for a C++20 compiler: the threads of a block are threads, one block at a time.
#pragma once
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

struct Place {
    unsigned x, y;
};
static thread_local Place threadIdx;
static Place blockIdx, blockDim;
static std::barrier<> *block;

#define __global__
#define __device__
#define __forceinline__ inline
#define __constant__ const
#define __shared__ static
#define __launch_bounds__(threads)
#define __syncthreads() block->arrive_and_wait()

// What the instruction of that name does with signed bytes (PTX ISA, dp4a).
static int dp4a(uint32_t a, uint32_t b, int sum)
{
    for (int byte = 0; byte < 4; byte++)
        sum += int(int8_t(a >> (8 * byte))) * int(int8_t(b >> (8 * byte)));
    return sum;
}

template <typename Kernel> static void launch(unsigned wide, unsigned high, unsigned threads, Kernel kernel)
{
    blockDim = {threads, 1};
    for (unsigned y = 0; y < high; y++)
        for (unsigned x = 0; x < wide; x++) {
            blockIdx = {x, y};
            std::barrier<> all(threads);
            block = &all;
            std::vector<std::thread> running;
            for (unsigned thread = 0; thread < threads; thread++)
                running.emplace_back([thread, &kernel] {
                    threadIdx = {thread, 0};
                    kernel();
                });
            for (auto &each : running)
                each.join();
        }
}
