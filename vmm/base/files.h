#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace mayfly {

/// All that a file gives, of whatever kind it is: a pipe is read until its writers have closed it, and one without any
/// is empty. Never opened as the controlling terminal. `what`: the option that named it, and its path. Errors, with
/// `what`: cannot be opened or read, over `longest` bytes.
[[nodiscard]] Result<std::string> read_file(const std::string& path, const std::string& what, std::size_t longest);

/// Whether both are one file, under whatever names.
[[nodiscard]] bool is_same_file(const struct stat& one, const struct stat& other) noexcept;
/// Whether both paths lead to one file that is there, through symbolic links, too.
[[nodiscard]] bool is_same_file(const std::string& one, const std::string& other) noexcept;

/// Fills `bytes` from `offset` on, in as many calls as the kernel takes. Returns how many bytes were read: fewer than
/// all where a call fails (errno), and where the file ends (errno is 0).
[[nodiscard]] std::size_t read_all_at(int file, std::span<std::byte> bytes, std::uint64_t offset) noexcept;
/// Writes all of `bytes`. False, with errno, where a call fails.
[[nodiscard]] bool write_all_at(int file, std::span<const std::byte> bytes, std::uint64_t offset) noexcept;

/// What a file is called while it is in the making: `mayfly snapshot sweep` knows what a kill has left by it.
[[nodiscard]] std::string new_name(const std::string& path);
inline constexpr std::string_view kNewSuffix = ".mayfly-new";

/// Renames a file that nothing else renames meanwhile, unless `to` is there: then it fails with EEXIST. Where a file system
/// cannot do that in one step (NFS), what appears between the look and the rename is replaced. False, with errno, where it fails.
[[nodiscard]] bool rename_unless_there(const std::string& from, const std::string& to) noexcept;

/// The part of a path up to its last "/", or ".".
[[nodiscard]] std::string directory_of(const std::string& path);
/// Opens it. `what` names the field in errors.
[[nodiscard]] Result<OwnedFd> open_directory_of(const std::string& path, std::string_view what);
/// Puts the name that `path` has in its directory on stable storage.
[[nodiscard]] Status sync_directory(const OwnedFd& directory, const std::string& path, std::string_view what);
[[nodiscard]] Status sync_directory_of(const std::string& path, std::string_view what);

/// A second open file of the pipe or terminal behind `fd`, that does not block; whoever shares `fd` is not affected.
/// `access`: O_RDONLY or O_WRONLY. None for other files, and where /proc cannot be used.
///
/// A ring tries an operation on a file that blocks without waiting, 128 times over, and then gives it to a worker
/// (io_uring/poll.c, APOLL_MAX_RETRY; terminals, and before Linux 6.4 pipes).
[[nodiscard]] OwnedFd nonblocking_twin(int fd, int access) noexcept;

}  // namespace mayfly
