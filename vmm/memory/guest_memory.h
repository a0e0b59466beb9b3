#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mapping.h"
#include "vmm/base/owned_fd.h"
#include "vmm/config/configuration.h"
#include "vmm/memory/guest_address.h"
#include "vmm/memory/memory_layers.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <type_traits>
#include <vector>

/// A guest's RAM: the only door from a guest address to bytes of this process.
///
///   auto memory = GuestMemory::create({.size_mib = 128, .pages = HugePages::None});
///   if (auto header = memory->load<Header>(GuestAddress{0x7000})) ...   // a copy; the guest may change the original
///   if (auto room = memory->bytes(at, 4096)) ...                        // nullopt: not RAM, or the sum wraps
namespace mayfly {

/// Where RAM stops for devices, and goes on (see vmm/README.md, "Guest address space").
inline constexpr std::uint64_t kMmioHoleStart = 0xD000'0000;
inline constexpr std::uint64_t kMmioHoleEnd = 0x1'0000'0000;
inline constexpr std::uint64_t kGuestPageSize = 4096;
inline constexpr std::uint64_t kMiB = 1024 * 1024;

template <typename T>
concept TriviallyCopyable = std::is_trivially_copyable_v<T>;

class GuestMemory {
 public:
  /// A stretch of RAM that is contiguous for the guest and for the host.
  struct Region {
    GuestAddress start;
    Mapping mapping;
    [[nodiscard]] std::uint64_t size() const noexcept { return mapping.length(); }
    [[nodiscard]] std::uint64_t end() const noexcept { return start.value + mapping.length(); }
  };
  struct Options {
    std::uint64_t size_mib = 128;
    HugePages pages = HugePages::None;
    std::stop_token stop{};  ///< Ends the reading of files with an error.
  };

  /// A stretch whose untouched pages show a file.
  struct FileRange {
    GuestAddress start;
    std::uint64_t length = 0;
    std::uint64_t offset = 0;  ///< In the file.
    /// The file, where its holes matter; where it is not kept, all of the stretch counts as data.
    std::shared_ptr<OwnedFd> file{};
  };

  /// What create() would say of the options before it asks the host for memory.
  [[nodiscard]] static Status check(const Options& options);

  /// Maps anonymous memory: one region, or two around the MMIO hole. Pages are made when touched.
  /// Errors: size 0, size over the guest's address space (kMaximumSizeMib), odd with 2 MiB pages, no room on the host,
  /// fewer pages in its pool than the memory needs.
  [[nodiscard]] static Result<GuestMemory> create(const Options& options);

  /// Memory whose content is a file: the regions one after the other from `offset` 0 on. Pages are private copies of
  /// the file's where the guest writes, and shared with everyone who maps it where not. Pages of 2 MiB cannot be mapped
  /// from a file and are read instead. The file must not be written to meanwhile. Errors: as create(), and of the file.
  [[nodiscard]] static Result<GuestMemory> map(const Options& options, OwnedFd file);

  /// The same of several files, each as long as the memory. A part of an upper file is mapped over the base, or copied
  /// where there are more than `most_mapped` of them.
  [[nodiscard]] static Result<GuestMemory> map(const Options& options, const MemoryLayers& layers,
                                               std::size_t most_mapped = kMostMappedParts);

  /// The largest size_mib that create() accepts: 1 TiB.
  static constexpr std::uint64_t kMaximumSizeMib = 1024 * 1024;

  /// The bytes at [at, at + length), all in one region; nullopt where any of them is not RAM or the sum wraps.
  /// Zero bytes are there wherever an address of RAM or a region's end is. The guest may change the bytes at any
  /// time: copy first, check the copy.
  [[nodiscard]] std::optional<std::span<std::byte>> bytes(GuestAddress at, std::uint64_t length) const noexcept;

  /// A copy of a plain structure in guest memory; nullopt as for bytes().
  template <TriviallyCopyable T>
  [[nodiscard]] std::optional<T> load(GuestAddress at) const noexcept {
    const auto source = bytes(at, sizeof(T));
    if (!source) return std::nullopt;
    T value;
    std::memcpy(&value, source->data(), sizeof(T));
    return value;
  }

  /// Writes a plain structure into guest memory; false, with nothing written, where it does not fit.
  template <TriviallyCopyable T>
  [[nodiscard]] bool store(GuestAddress at, const T& value) const noexcept {
    const auto target = bytes(at, sizeof(T));
    if (!target) return false;
    std::memcpy(target->data(), &value, sizeof(T));
    note_write(target->data(), sizeof(T));
    return true;
  }

  /// Copies bytes into guest memory; false, with nothing written, where they do not all fit in one region.
  [[nodiscard]] bool write(GuestAddress at, std::span<const std::byte> source) const noexcept;

  /// Puts `length` bytes of a file at `at`. Whole pages whose file offset and guest address agree modulo the page size
  /// are mapped privately over the RAM (no copy; the page cache is shared by every machine that boots this file); the
  /// rest, and everything where pages are of 2 MiB, is read. Touches the first page of transparent huge pages, to see
  /// whether the host has any. Errors: outside RAM, a short or failing read.
  [[nodiscard]] Status place_file(int fd, std::uint64_t offset, GuestAddress at, std::uint64_t length);

  [[nodiscard]] const std::vector<Region>& regions() const noexcept { return regions_; }
  /// Ascending, without overlaps.
  [[nodiscard]] const std::vector<FileRange>& file_ranges() const noexcept { return file_ranges_; }
  [[nodiscard]] HugePages pages() const noexcept { return pages_; }
  /// The memory files that it was made of, mapped or read; the lowest first.
  [[nodiscard]] const std::vector<std::shared_ptr<OwnedFd>>& memory_files() const noexcept { return memory_files_; }

  /// Whether every page shows a file's wherever it is not this process's own (drop_private_pages()): map() has mapped all
  /// of it, and copied and read none.
  [[nodiscard]] bool is_all_mapped() const noexcept { return all_mapped_; }

  /// Untouched pages are not zeros but what somebody gives: all of it counts as a file's (see FileRange). `layers`:
  /// where they come from, if it is known.
  void set_served(const MemoryLayers& layers = {});
  [[nodiscard]] bool is_served() const noexcept { return served_; }

  /// From now on, note_write() is remembered: for diff snapshots. Before any device exists.
  void track_writes();
  /// A device has written to guest memory; KVM's own log does not see that. `at` is from bytes(). Any thread.
  void note_write(const void* at, std::size_t length) const noexcept {
    if (!written_.empty() && length != 0) [[unlikely]]
      mark_written(static_cast<const std::byte*>(at), length);
  }
  /// What was noted since the last call: a bit a page in the regions' order, each region's from a new word on.
  [[nodiscard]] std::vector<std::uint64_t> take_written();
  /// Whether a child process has it, from its fork on (MADV_DOFORK); at all other times none has. Error: the kernel's; a part
  /// may have changed.
  [[nodiscard]] Status show_to_children(bool on) const;
  /// All RAM, in bytes.
  [[nodiscard]] std::uint64_t size() const noexcept;
  /// The end of the region that starts at 0: RAM that every boot protocol can use.
  [[nodiscard]] GuestAddress low_end() const noexcept { return GuestAddress{regions_.front().end()}; }

 private:
  GuestMemory(std::vector<Region> regions, HugePages pages) noexcept : regions_(std::move(regions)), pages_(pages) {}
  static Result<GuestMemory> read_into_huge_pages(const Options& options, const MemoryLayers& layers);
  void mark_written(const std::byte* at, std::size_t length) const noexcept;
  /// Transparent pages become None where the host gives none.
  [[nodiscard]] bool has_huge_pages();

  std::vector<Region> regions_;  // ascending, never empty
  HugePages pages_;
  bool all_mapped_ = false;
  bool served_ = false;
  std::vector<FileRange> file_ranges_;
  std::vector<std::shared_ptr<OwnedFd>> memory_files_;
  mutable std::vector<std::uint64_t> written_;  // words are accessed atomically; empty: writes are not tracked
};

}  // namespace mayfly
