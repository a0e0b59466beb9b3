#include "rootfs-tools/agent/tree.h"
#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <limits>
#include <span>
#include <utility>

#include <fmt/format.h>

namespace mayfly::agent {
namespace {

constexpr std::uint32_t kSetId = 06000;
constexpr auto kLongestFile = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());

/// What a file is called until it is whole; of this process alone.
std::string next_new_name() {
  static std::atomic<unsigned> number{0};
  return fmt::format(".mayfly-new-{}-{}", ::getpid(), number.fetch_add(1));
}

std::array<timespec, 2> times_of(const TreeEntry& entry) {
  const timespec changed{.tv_sec = entry.seconds, .tv_nsec = static_cast<long>(entry.nanoseconds)};
  return {timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, changed};
}

/// An owner is kept where we may give files away.
bool owner_is_set(int result) { return result == 0 || errno == EPERM; }

}  // namespace

std::unexpected<Error> refused(const Frame& frame) {
  auto refusal = decode_refusal(frame.payload);
  if (!refusal) return propagate(refusal);
  const ErrorKind kind = refusal->reason == RefusalReason::NotFound ? ErrorKind::NotFound : ErrorKind::Guest;
  return std::unexpected(Error{kind, std::move(refusal->sentence)});
}

TreeReceiver::TreeReceiver(TreeDestination destination, SetIdBits set_id, const TreeHooks& hooks)
    : destination_(std::move(destination)), set_id_(set_id), hooks_(hooks) {}

TreeReceiver::~TreeReceiver() {
  if (!new_name_.empty()) ::unlinkat(here(), new_name_.c_str(), 0);
}

int TreeReceiver::here() const noexcept {
  return levels_.empty() ? destination_.directory.get() : levels_.back().directory.get();
}

std::string TreeReceiver::shown(const TreeEntry& entry) const {
  std::string path;
  for (const Level& level : levels_) path += level.entry.name + '/';
  return path + entry.name;
}

Result<bool> TreeReceiver::take(const Frame& frame) {
  switch (frame.type) {
    case FrameType::Entry:
      TRY(take_entry(frame.payload));
      break;
    case FrameType::Data:
      TRY(append(frame.payload));
      break;
    case FrameType::Hole:
      TRY(skip(frame.payload));
      break;
    case FrameType::Leave:
      TRY(leave());
      break;
    case FrameType::Note:
      if (hooks_.note) hooks_.note(frame.payload);
      break;
    case FrameType::TreeEnd:
      TRY(finish_file());
      if (!levels_.empty()) return fail(ErrorKind::InvalidArgument, "the tree has no end");
      if (!has_root_) return fail(ErrorKind::NotFound, "there is nothing to copy: no file, directory, link or pipe");
      return true;
    case FrameType::Refused:
      return refused(frame);
    default:
      return fail(ErrorKind::InvalidArgument, "the peer sent a frame ({}) that belongs to no tree",
                  static_cast<unsigned>(frame.type));
  }
  if (hooks_.progress) hooks_.progress(counts_);
  return false;
}

Status TreeReceiver::take_entry(std::string_view payload) {
  TRY(finish_file());
  auto entry = TRY(decode_entry(payload));
  if (entry.name.empty() == has_root_ || (has_root_ && levels_.empty()))
    return fail(ErrorKind::InvalidArgument, "the tree has an entry ({}) where none belongs", entry.name);
  const bool is_root = !std::exchange(has_root_, true);
  if (is_root) {
    if (destination_.must_be_dir && entry.type != EntryType::Directory)
      return fail(ErrorKind::InvalidArgument, "there is no directory {}; make it first", destination_.name);
    if (destination_.name.empty() && entry.type != EntryType::Directory)
      return fail(ErrorKind::InvalidArgument, "the tree's root is no directory, and has no name");
    entry.name = destination_.name;
  }
  if (set_id_ == SetIdBits::Cleared) entry.mode &= ~kSetId;
  ++counts_.entries;
  switch (entry.type) {
    case EntryType::Directory:
      return enter(std::move(entry));
    case EntryType::Link:
      return make_link(entry);
    case EntryType::Fifo:
      return make_fifo(entry);
    case EntryType::File:
      break;
  }
  return open_file(std::move(entry));
}

Status TreeReceiver::enter(TreeEntry entry) {
  if (levels_.size() == kDeepestTree)
    return fail(ErrorKind::TooLarge, "{} is deeper than {} directories; copy a part of the tree", shown(entry),
                kDeepestTree);
  const bool is_destination = entry.name.empty();
  const std::string name = is_destination ? "." : entry.name;
  if (!is_destination && ::mkdirat(here(), name.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno(ErrorKind::System, "cannot make the directory {}", shown(entry));
  OwnedFd directory{::openat(here(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  if (!directory && (errno == ENOTDIR || errno == ELOOP))
    return fail(ErrorKind::State, "{} is there and is no directory; move it away, or copy into what it leads to",
                shown(entry));
  if (!directory) return fail_errno(ErrorKind::System, "cannot open the directory {}", shown(entry));
  levels_.push_back({.directory = std::move(directory), .entry = std::move(entry), .is_destination = is_destination});
  return {};
}

Status TreeReceiver::leave() {
  TRY(finish_file());
  if (levels_.empty()) return fail(ErrorKind::InvalidArgument, "the tree leaves a directory that it is not in");
  const Level level = std::move(levels_.back());
  levels_.pop_back();
  if (level.is_destination) return {};
  return finish_attributes(level.directory, level.entry);
}

Status TreeReceiver::open_file(TreeEntry entry) {
  std::string name = next_new_name();
  file_ = OwnedFd{::openat(here(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)};
  if (!file_) return fail_errno(ErrorKind::System, "cannot make {}", shown(entry));
  new_name_ = std::move(name);
  file_entry_ = std::move(entry);
  offset_ = 0;
  return {};
}

Status TreeReceiver::append(std::string_view data) {
  if (!file_) return fail(ErrorKind::InvalidArgument, "the tree has data that belong to no file");
  if (data.size() > kLongestFile - offset_) return fail(ErrorKind::TooLarge, "{} is too large", shown(file_entry_));
  if (!write_all_at(file_.get(), std::as_bytes(std::span{data}), offset_))
    return fail_errno(ErrorKind::System, "cannot write {}", shown(file_entry_));
  offset_ += data.size();
  counts_.bytes += data.size();
  return {};
}

Status TreeReceiver::skip(std::string_view payload) {
  const auto length = TRY(decode_length(payload));
  if (!file_) return fail(ErrorKind::InvalidArgument, "the tree has a hole that belongs to no file");
  if (length > kLongestFile - offset_) return fail(ErrorKind::TooLarge, "{} is too large", shown(file_entry_));
  offset_ += length;
  return {};
}

Status TreeReceiver::finish_file() {
  if (!file_) return {};
  if (::ftruncate(file_.get(), static_cast<off_t>(offset_)) != 0)
    return fail_errno(ErrorKind::System, "cannot write {}", shown(file_entry_));
  TRY(finish_attributes(file_, file_entry_));
  // Errors of writing may come only now.
  if (::close(file_.release()) != 0) return fail_errno(ErrorKind::System, "cannot write {}", shown(file_entry_));
  return put_in_place(file_entry_);
}

Status TreeReceiver::finish_attributes(const OwnedFd& file, const TreeEntry& entry) const {
  // The owner first: a change of it clears bits of the mode.
  const auto times = times_of(entry);
  if (!owner_is_set(::fchown(file.get(), entry.uid, entry.gid)) || ::fchmod(file.get(), entry.mode) != 0 ||
      ::futimens(file.get(), times.data()) != 0)
    return fail_errno(ErrorKind::System, "cannot set owner, mode and time of {}", shown(entry));
  return {};
}

Status TreeReceiver::make_link(const TreeEntry& entry) {
  std::string name = next_new_name();
  if (::symlinkat(entry.target.c_str(), here(), name.c_str()) != 0)
    return fail_errno(ErrorKind::System, "cannot make the link {}", shown(entry));
  new_name_ = std::move(name);
  return put_in_place(entry);
}

Status TreeReceiver::make_fifo(const TreeEntry& entry) {
  std::string name = next_new_name();
  if (::mknodat(here(), name.c_str(), S_IFIFO | entry.mode, 0) != 0)
    return fail_errno(ErrorKind::System, "cannot make the pipe {}", shown(entry));
  new_name_ = std::move(name);
  return put_in_place(entry);
}

Status TreeReceiver::put_in_place(const TreeEntry& entry) {
  const auto times = times_of(entry);
  // mknodat() heeds the umask; a link has no mode.
  if (entry.type != EntryType::File &&
      (!owner_is_set(::fchownat(here(), new_name_.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW)) ||
       (entry.type == EntryType::Fifo && ::fchmodat(here(), new_name_.c_str(), entry.mode, AT_SYMLINK_NOFOLLOW) != 0) ||
       ::utimensat(here(), new_name_.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) != 0))
    return fail_errno(ErrorKind::System, "cannot set owner, mode and time of {}", shown(entry));
  if (::renameat(here(), new_name_.c_str(), here(), entry.name.c_str()) != 0)
    return fail_errno(ErrorKind::System, "cannot put {} in place", shown(entry));
  new_name_.clear();
  return {};
}

Result<TreeCounts> receive_tree(FrameStream& stream, TreeDestination destination, SetIdBits set_id,
                                const TreeHooks& hooks) {
  TreeReceiver receiver{std::move(destination), set_id, hooks};
  for (;;) {
    auto frame = stream.receive();
    if (!frame) return propagate(frame);
    auto done = receiver.take(*frame);
    if (!done) return propagate(done);
    if (*done) return receiver.counts();
  }
}

}  // namespace mayfly::agent
