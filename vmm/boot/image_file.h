#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// A file that a guest boots from, read in bounded pieces: nothing in it is believed before it was copied and checked.
///
///   auto fd = open_boot_file("/srv/vmlinux", BootFileRole::Kernel);
///   auto file = ImageFile::of(fd->get(), BootFileRole::Kernel, "/srv/vmlinux");
///   auto header = file->load<Elf64_Ehdr>(0, "the ELF header");
namespace mayfly {

enum class BootFileRole { Kernel, Initrd };

/// The name of the field that a user gave the file in: "kernel_image_path" or "initrd_path".
[[nodiscard]] std::string_view field_of(BootFileRole role) noexcept;

/// Opens a file to boot from, read-only. Never blocks, not even on a FIFO. Any thread.
/// Errors, each naming field, path and remedy: missing, not readable, a directory or another thing that is no regular
/// file, empty.
[[nodiscard]] Result<OwnedFd> open_boot_file(const std::string& path, BootFileRole role);

/// A view of an open file, which must outlive it.
class ImageFile {
 public:
  /// Errors: not a regular file, empty (as open_boot_file, for descriptors that came another way).
  [[nodiscard]] static Result<ImageFile> of(int fd, BootFileRole role, const std::string& path);

  /// Fills `target` with the bytes at `offset`. `what` is for the message: "the ELF header".
  /// Errors: the file ends before (InvalidArgument), the read fails (System).
  [[nodiscard]] Status read(std::uint64_t offset, std::span<std::byte> target, std::string_view what) const;

  /// A copy of the structure at `offset`; errors as for read().
  template <TriviallyCopyable T>
  [[nodiscard]] Result<T> load(std::uint64_t offset, std::string_view what) const {
    T value{};
    if (auto done = read(offset, std::as_writable_bytes(std::span{&value, 1}), what); !done) return propagate(done);
    return value;
  }

  /// Whether [offset, offset + length) lies in the file.
  [[nodiscard]] bool holds(std::uint64_t offset, std::uint64_t length) const noexcept {
    return offset <= size_ && length <= size_ - offset;
  }
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  /// Field and path, as a sentence begins: "kernel_image_path /srv/vmlinux".
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  ImageFile(int fd, std::uint64_t size, std::string name) noexcept : fd_(fd), size_(size), name_(std::move(name)) {}

  int fd_;
  std::uint64_t size_;
  std::string name_;
};

}  // namespace mayfly
