#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <filesystem>
#include <string>

/// Which clones are being started, so that what a killed `mayfly up` leaves is found and removed.
///
/// RUN DIRECTORY/.starting/ID is there, and locked by its process, from before the first file of a clone until that answers or
/// has failed. The kernel takes the lock of a process that was killed: a mark that nobody has locked names a clone that is half
/// made. Its process cannot be made to end with `mayfly up` instead: nothing takes such an order back once it serves.
namespace mayfly::clones {

class StartingMark {
 public:
  /// `jail_base`: empty: it has no jail. Error: another one starts this clone.
  [[nodiscard]] static Result<StartingMark> make(const std::filesystem::path& run_directory, const std::string& id,
                                                 const std::string& jail_base);
  StartingMark(StartingMark&& other) noexcept = default;
  StartingMark& operator=(StartingMark&&) = delete;
  StartingMark(const StartingMark&) = delete;
  StartingMark& operator=(const StartingMark&) = delete;
  ~StartingMark() { remove(); }

  /// The clone's directory is new and its own: all that is in it may be removed from here on.
  [[nodiscard]] Status directory_is_made();
  /// It answers, or nothing of it is left.
  void remove();

 private:
  StartingMark(std::filesystem::path path, OwnedFd file) : path_(std::move(path)), file_(std::move(file)) {}

  std::filesystem::path path_;
  OwnedFd file_;
};

/// Ends and removes clones whose `mayfly up` was killed while it started them. What cannot be removed now is tried again by the
/// next call. Marks in a directory that others may write to are not believed. `jailer`: the program.
void clear_half_made(const std::filesystem::path& run_directory, const std::filesystem::path& jailer);

}  // namespace mayfly::clones
