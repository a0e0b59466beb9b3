#pragma once

namespace mayfly {

/// What the child process of a machine is called that holds its memory for a live snapshot (snapshot/held_memory.h). Its
/// executable and command line are the machine's, which it is not (api/client/running.h).
inline constexpr const char* kMemoryHolderName = "memory-holder";

}  // namespace mayfly
