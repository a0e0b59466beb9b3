#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Which process has locked a drive's image, for the refusal.
namespace mayfly {

/// Whether a line of /proc/PID/fdinfo/FD is of a lock on `inode`. The kernel tells no process for a lock of an open
/// file description, but shows it with each descriptor that keeps it.
[[nodiscard]] bool is_lock_on(std::string_view line, std::uint64_t inode);

/// Whether this process has `inode` open through a description that holds a lock on it.
[[nodiscard]] bool we_hold_lock(std::uint64_t inode);

/// A process that has `inode` open through a description that holds a lock on it; empty where none is found among those
/// that we may look at. Looks through thousands of files: not while a guest waits.
[[nodiscard]] std::optional<int> find_lock_holder(std::uint64_t inode);

/// The content of /proc/PID/comm, or nothing.
[[nodiscard]] std::string process_name(int pid);

}  // namespace mayfly
