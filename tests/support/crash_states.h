#pragma once

#include "tests/support/logged_file_system.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

/// What a crash of the host can leave of the files whose writes and syncs were logged.
///
/// The model is POSIX's, and weaker than any file system that is in use: after a crash,
///   - of a file, what was written before its last fsync is there; of later writes and truncations, each is there or
///     not, whichever others are, or its bytes are zeros (the size was stored, the data not);
///   - of a directory, what was created, removed and renamed in it before its last fsync is; of later changes, each is
///     or is not. A rename is atomic. fsync of a file says nothing of its name.
/// A crash is tried after every operation. Where at most kExhaustive of the operations before it are unsynced, every
/// combination is tried. Else all of them, none and kRandom random combinations; before a sync or a change of names,
/// also up to kAlone of them missing alone and there alone; amid writes, kAmidWrites random combinations.
namespace mayfly::testing {

class CrashStates {
 public:
  static constexpr std::size_t kExhaustive = 7;
  static constexpr std::size_t kAlone = 16;
  static constexpr unsigned kRandom = 32;
  static constexpr unsigned kAmidWrites = 1;

  /// Of `log`, all before `begin` is on the disk. `directories`: their numbers, and where a state puts their files.
  CrashStates(std::vector<DiskOperation> log, std::size_t begin, std::map<std::uint64_t, std::string> directories);

  /// Makes each state in turn (each different one once), empty directories filled anew, and calls `check` with what it
  /// is: how many operations were begun, and those that are missing of them. `check` is done with the files when it
  /// returns. The number of states.
  std::size_t try_all(const std::function<void(std::size_t begun, const std::string& missing)>& check);

 private:
  /// What became of an operation.
  enum class Fate : unsigned char { Done, Missing, Zeros };
  using Fates = std::vector<Fate>;

  [[nodiscard]] std::vector<std::size_t> unsynced(std::size_t end) const;
  void try_combinations(std::size_t end, std::span<const std::size_t> open,
                        const std::function<void(std::size_t, const std::string&)>& check);
  void try_one(std::size_t end, const Fates& fates, const std::function<void(std::size_t, const std::string&)>& check);
  /// A file of its own with a file's content.
  [[nodiscard]] std::string content_of(std::uint64_t file, const std::string& key, std::size_t end, const Fates& fates);

  std::vector<DiskOperation> log_;
  std::size_t begin_;
  std::map<std::uint64_t, std::string> directories_;
  std::string contents_;  // a directory
  std::map<std::string, std::string> made_;
  std::set<std::string> seen_;
  std::size_t count_ = 0;
};

}  // namespace mayfly::testing
