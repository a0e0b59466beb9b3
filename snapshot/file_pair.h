#pragma once

#include "vmm/base/error.h"
#include "vmm/base/files.h"
#include "vmm/base/owned_fd.h"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

/// Files that appear whole or not at all.
///
/// A new file is written as NAME.mayfly-new beside its place, synced, and renamed. For the pair of a snapshot the
/// state's rename is the moment at which the new snapshot counts; the memory's follows once that rename is on stable
/// storage. A process that is killed in between leaves the new state, the old memory and NAME.mayfly-new:
/// open_memory_file() finds it there. So a crash leaves the old pair or the new one.
///
/// NAME.mayfly-new is locked by the process that writes it (an OFD lock of the whole file). A second process that wants
/// to write NAME is refused; a file that nobody has locked is left over from a process that was killed.
namespace mayfly {

/// A file in the making; removed when destroyed, unless it was given its name.
class NewFile {
 public:
  /// Makes PATH.mayfly-new, empty, locked, for its owner alone, in place of one that was left over. A symbolic link at
  /// PATH is replaced, not followed. `what` names the field in errors: a directory or device is there, nothing can be
  /// made there, another process writes PATH at this moment.
  [[nodiscard]] static Result<NewFile> create(const std::string& path, std::string_view what);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  [[nodiscard]] const OwnedFd& fd() const noexcept { return fd_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Writes all of it. Errors: a full disk...
  [[nodiscard]] Status write(std::span<const std::byte> bytes) const;
  /// Puts content and size on stable storage.
  [[nodiscard]] Status sync() const;
  /// Puts its present name on stable storage: syncs the directory.
  [[nodiscard]] Status sync_name() const;
  /// Whether PATH.mayfly-new still is this file.
  [[nodiscard]] bool in_place() const noexcept;
  /// Gives it its name, in place of what had it. The directory is synced, so that the name stays. Where only that
  /// fails, published() is true all the same. Errors also: PATH.mayfly-new is not this file any more.
  [[nodiscard]] Status publish();
  /// The same where nothing has its name; where something has, it stays. A second error, then: another process made that meanwhile.
  [[nodiscard]] Status publish_unless_there();
  /// Whether it has its name.
  [[nodiscard]] bool published() const noexcept { return published_; }
  /// Leaves it under the name that it has while in the making.
  void keep() noexcept { fd_.reset(); }

 private:
  NewFile(OwnedFd directory, OwnedFd fd, std::string path, std::string_view what) noexcept
      : directory_(std::move(directory)), fd_(std::move(fd)), path_(std::move(path)), what_(what) {}

  [[nodiscard]] Status check_in_place() const;
  [[nodiscard]] Status has_its_name();

  OwnedFd directory_;
  OwnedFd fd_;  // none: published, or moved from
  std::string path_;
  std::string what_;
  bool published_ = false;
};

/// What became of a pair.
struct PairOutcome {
  bool counts = false;  ///< The new pair loads. If not, nothing has changed, or `status` says that the pair is lost.
  Status status{};      ///< Good only if the new pair is in place, and on stable storage.
};

/// Puts both files on stable storage and gives them their names, in the order that leaves the old pair or the new one
/// at every moment. Both files are written whole. Loop's thread, or any of a tool.
[[nodiscard]] PairOutcome publish_pair(NewFile& memory, NewFile& state);

/// What NewFile::create() would say, as far as it can be known without making anything.
[[nodiscard]] Status check_new_file(const std::string& path, std::string_view what);

/// Whether writing `a` as a new file would touch `b`, or the other way round: the paths or their new names are one
/// directory entry, in whichever spelling, or one file.
[[nodiscard]] bool paths_clash(const std::string& a, const std::string& b);

enum class FileLock {
  Taken,       ///< By this process, until the file is closed.
  Held,        ///< By another process, which writes the file.
  Unavailable  ///< The file system has no locks, or lost its lock server: somebody may be writing the file.
};
/// Locks a file that was opened for writing, as its writer does. A writer works without the lock where locks are
/// unavailable.
[[nodiscard]] FileLock lock_new_file(int file) noexcept;

/// Whether `path` names the open file, not by a symbolic link.
[[nodiscard]] bool names_file(const std::string& path, int file) noexcept;

}  // namespace mayfly
