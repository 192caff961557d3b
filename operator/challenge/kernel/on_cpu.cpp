// Runs the kernels of challenge.cu on the CPU: reads keys and head as words from standard input, writes C and the digests.
#include <cstdio>
#include "shim.h"
#include "challenge.cu"

static std::vector<u32> words_of_input(size_t count)
{
    std::vector<u32> words(count);
    if (std::fread(words.data(), 4, count, stdin) != count)
        std::exit(2);
    return words;
}

int main()
{
    const auto sizes = words_of_input(2);
    const u32 rows = sizes[0], words = sizes[1];
    const auto a_rows = words_of_input(rows), a_columns = words_of_input(words);
    const auto b_rows = words_of_input(words), b_columns = words_of_input(rows), head = words_of_input(15);
    std::vector<int> c(size_t(rows) * rows);
    std::vector<u32> leaves(4 * size_t(rows));
    // In bands of one tile, as the engine does it with larger ones.
    for (u32 tile = 0; tile < rows / TILE; tile++)
        launch(rows / TILE, 1, SIDE * SIDE, [&] {
            product(a_rows.data(), a_columns.data(), b_rows.data(), b_columns.data(), rows, words, tile, c.data());
        });
    launch(rows / 128, 1, 128, [&] { digest(head.data(), c.data(), rows, leaves.data()); });
    std::fwrite(c.data(), 4, c.size(), stdout);
    std::fwrite(leaves.data(), 4, leaves.size(), stdout);
    return 0;
}
