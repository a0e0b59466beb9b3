#pragma once

#include "tests/support/held_requests.h"
#include "vmm/base/owned_fd.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

/// A file system in this process's memory that logs what is done to it, in order, with the data: by /dev/fuse.
///
///   LoggedFileSystem disk{scratch.file("disk"), {"a", "b"}};   // two directories
///   ...                                                        // processes write to disk/a and disk/b
///   for (const DiskOperation& operation : disk.log()) ...
///
/// It can be slow, and it can hang:
///
///   disk.delay([](const DiskRequest& request) {
///     return request.kind == DiskRequest::Kind::Read ? kNeverAnswered : 0;
///   });
///   ...                                                        // processes wait
///   disk.delay({});                                            // and have their answers
///
/// It needs root. It has regular files and renames, all that snapshots need, and nothing of what they do not.
namespace mayfly::testing {

/// One change, or one sync. Of the numbers of files and directories each is one file's for good.
struct DiskOperation {
  enum class Kind { Write, Truncate, Create, Unlink, Rename, Exchange, SyncFile, SyncDirectory };
  Kind kind = Kind::Write;
  std::uint64_t file = 0;       ///< Not of SyncDirectory.
  std::uint64_t other = 0;      ///< Of Exchange: the file that gets the old name.
  std::uint64_t directory = 0;  ///< Of Create, Unlink, Rename, Exchange and SyncDirectory.
  std::string name{};           ///< Of Create and Unlink; of Rename and Exchange, the new one.
  std::string old_name{};       ///< Of Rename and Exchange, which stay within their directory.
  std::uint64_t offset = 0;     ///< Of Write; of Truncate, the size.
  std::vector<std::byte> data{};
};

class LoggedFileSystem {
 public:
  enum class Keep {
    Everything,
    NamesAlone,  ///< What is written is thrown away, and not logged; files keep their sizes, and read as zeros.
  };
  /// Makes the directory `where`, and mounts the file system there, with `directories` in it. Throws where it cannot.
  LoggedFileSystem(std::string where, const std::vector<std::string>& directories, Keep keep = Keep::Everything);
  LoggedFileSystem(const LoggedFileSystem&) = delete;
  LoggedFileSystem& operator=(const LoggedFileSystem&) = delete;
  ~LoggedFileSystem();

  /// All that was done so far.
  [[nodiscard]] std::vector<DiskOperation> log() const;
  /// The number of one of the directories.
  [[nodiscard]] std::uint64_t directory(const std::string& name) const;

  /// From now on, requests are answered as `rule` says. None: at once; what is held is answered, too.
  void delay(DiskDelay rule);
  /// The next request of this kind for the file of that name fails with EIO.
  void fail_once(DiskRequest::Kind kind, const std::string& name);
  /// Waits until `count` requests are held; throws at a deadline.
  void await_held(std::size_t count) const;
  /// Bytes of all writes that were answered.
  [[nodiscard]] std::uint64_t written() const;

 private:
  class Server;
  std::string where_;
  std::unique_ptr<Server> server_;
};

}  // namespace mayfly::testing
