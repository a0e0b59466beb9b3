#include "tests/support/crash_states.h"

#include "tests/support/child_process.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <span>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;
using Kind = DiskOperation::Kind;

bool changes_content(const DiskOperation& operation) {
  return operation.kind == Kind::Write || operation.kind == Kind::Truncate;
}

bool changes_names(const DiskOperation& operation) {
  return operation.kind == Kind::Create || operation.kind == Kind::Unlink || operation.kind == Kind::Rename ||
         operation.kind == Kind::Exchange;
}

bool is_synced_by(const DiskOperation& operation, const DiskOperation& sync) {
  if (changes_content(operation)) return sync.kind == Kind::SyncFile && sync.file == operation.file;
  return sync.kind == Kind::SyncDirectory && sync.directory == operation.directory;
}

std::string describe(const DiskOperation& operation) {
  switch (operation.kind) {
    case Kind::Write:
      return "write " + std::to_string(operation.data.size()) + " bytes at " + std::to_string(operation.offset) +
             " of file " + std::to_string(operation.file);
    case Kind::Truncate:
      return "truncate file " + std::to_string(operation.file);
    case Kind::Create:
      return "create " + operation.name + " as file " + std::to_string(operation.file);
    case Kind::Unlink:
      return "unlink " + operation.name;
    case Kind::Rename:
      return "rename " + operation.old_name + " to " + operation.name;
    case Kind::Exchange:
      return "exchange " + operation.old_name + " and " + operation.name;
    default:
      return "a sync";
  }
}

using Names = std::map<std::pair<std::uint64_t, std::string>, std::uint64_t>;

void change(const DiskOperation& operation, Names& names) {
  const auto remove = [&](const std::string& name) {
    const auto found = names.find({operation.directory, name});
    if (found != names.end() && found->second == operation.file) names.erase(found);
  };
  if (operation.kind == Kind::Unlink) remove(operation.name);
  if (operation.kind == Kind::Rename) remove(operation.old_name);
  if (operation.kind == Kind::Exchange) names[{operation.directory, operation.old_name}] = operation.other;
  if (operation.kind == Kind::Create || operation.kind == Kind::Rename || operation.kind == Kind::Exchange)
    names[{operation.directory, operation.name}] = operation.file;
}

}  // namespace

CrashStates::CrashStates(std::vector<DiskOperation> log, std::size_t begin,
                         std::map<std::uint64_t, std::string> directories)
    : log_(std::move(log)), begin_(begin), directories_(std::move(directories)) {
  for (const auto& [number, path] : directories_) fs::create_directories(path);
  contents_ = directories_.begin()->second + ".contents";
  fs::create_directories(contents_);
}

std::vector<std::size_t> CrashStates::unsynced(std::size_t end) const {
  std::vector<std::size_t> found;
  for (std::size_t i = begin_; i < end; ++i) {
    if (!changes_content(log_[i]) && !changes_names(log_[i])) continue;
    const auto later = std::span{log_}.subspan(i, end - i);
    if (std::ranges::none_of(later, [&](const DiskOperation& sync) { return is_synced_by(log_[i], sync); }))
      found.push_back(i);
  }
  return found;
}

std::size_t CrashStates::try_all(const std::function<void(std::size_t, const std::string&)>& check) {
  for (std::size_t end = begin_; end <= log_.size(); ++end) {
    const std::vector<std::size_t> open = unsynced(end);
    if (open.size() > kExhaustive) {
      try_combinations(end, open, check);
      continue;
    }
    Fates fates(end, Fate::Done);
    for (unsigned mask = 0; mask < 1U << open.size(); ++mask) {
      for (std::size_t i = 0; i < open.size(); ++i) fates[open[i]] = (mask >> i & 1U) != 0 ? Fate::Missing : Fate::Done;
      try_one(end, fates, check);
    }
  }
  return count_;
}

void CrashStates::try_combinations(std::size_t end, std::span<const std::size_t> open,
                                   const std::function<void(std::size_t, const std::string&)>& check) {
  const bool amid_writes = end < log_.size() && changes_content(log_[end]);
  Fates fates(end, Fate::Done);
  for (const auto& [others, alone] : {std::pair{Fate::Done, Fate::Missing}, {Fate::Missing, Fate::Done}}) {
    for (const std::size_t i : open) fates[i] = others;
    try_one(end, fates, check);
    // Of many writes, some: but the first and last ones, which are names, sizes, footers, always.
    const std::size_t step = (open.size() + kAlone - 1) / kAlone;
    for (std::size_t i = 0; i < open.size() && !amid_writes; ++i) {
      if (i % step != 0 && i >= 4 && i + 8 < open.size()) continue;
      fates[open[i]] = alone;
      try_one(end, fates, check);
      fates[open[i]] = others;
    }
  }
  std::mt19937 random{static_cast<unsigned>(end)};  // the same ones in every run
  for (unsigned i = 0; i < (amid_writes ? kAmidWrites : kRandom); ++i) {
    for (const std::size_t one : open) {
      const auto number = random() % 3;
      fates[one] = number == 0 ? Fate::Done : number == 1 || !changes_content(log_[one]) ? Fate::Missing : Fate::Zeros;
    }
    try_one(end, fates, check);
  }
}

void CrashStates::try_one(std::size_t end, const Fates& fates,
                          const std::function<void(std::size_t, const std::string&)>& check) {
  Names names;
  std::map<std::uint64_t, std::string> keys;  // which of a file's changes are there
  std::string missing;
  for (std::size_t i = 0; i < end; ++i) {
    if (fates[i] != Fate::Done) missing += (fates[i] == Fate::Zeros ? "\n  zeros: " : "\n  ") + describe(log_[i]);
    if (changes_names(log_[i]) && fates[i] == Fate::Done) change(log_[i], names);
    if (changes_content(log_[i]) && fates[i] != Fate::Missing)
      keys[log_[i].file] += (fates[i] == Fate::Zeros ? "z" : ",") + std::to_string(i);
  }
  std::string state;
  for (const auto& [place, file] : names)
    state += std::to_string(place.first) + "/" + place.second + "=" + std::to_string(file) + keys[file] + ";";
  if (!seen_.insert(state).second) return;
  for (const auto& [number, path] : directories_)
    for (const fs::directory_entry& entry : fs::directory_iterator{path}) fs::remove(entry.path());
  for (const auto& [place, file] : names)
    fs::create_hard_link(content_of(file, keys[file], end, fates), directories_.at(place.first) + "/" + place.second);
  ++count_;
  check(end, missing);
}

std::string CrashStates::content_of(std::uint64_t file, const std::string& key, std::size_t end, const Fates& fates) {
  auto& path = made_[std::to_string(file) + key];
  if (!path.empty()) return path;
  // What nothing leads back to is no more than memory of this host: begin anew.
  if (made_.size() > 64) {
    made_.clear();
    for (const fs::directory_entry& entry : fs::directory_iterator{contents_}) fs::remove(entry.path());
    return content_of(file, key, end, fates);
  }
  path = contents_ + "/" + std::to_string(count_) + "-" + std::to_string(file);
  const OwnedFd made{::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  if (!made) give_up("cannot make " + path);
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < end; ++i) {
    const DiskOperation& operation = log_[i];
    if (operation.file != file || !changes_content(operation) || fates[i] == Fate::Missing) continue;
    bool good = true;
    if (operation.kind == Kind::Truncate) {
      size = operation.offset;
      good = ::ftruncate(made.get(), static_cast<off_t>(size)) == 0;
    } else {
      size = std::max(size, operation.offset + operation.data.size());
      const std::vector<std::byte> zeros(fates[i] == Fate::Zeros ? operation.data.size() : 0);
      const auto& data = fates[i] == Fate::Zeros ? zeros : operation.data;
      good = ::pwrite(made.get(), data.data(), data.size(), static_cast<off_t>(operation.offset)) ==
             static_cast<ssize_t>(data.size());
    }
    if (!good) give_up("cannot write " + path);
  }
  return path;
}

}  // namespace mayfly::testing
