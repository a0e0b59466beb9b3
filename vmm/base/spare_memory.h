#pragma once

namespace mayfly {

/// Gives the kernel what this process has touched once and does not need now: free parts of the heap, and the calling
/// thread's stack below its present depth. A start or a load goes deeper than anything after it; of many clones, each
/// would keep those pages. A few system calls.
void give_back_spare_memory() noexcept;

}  // namespace mayfly
