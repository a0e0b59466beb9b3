#include "tests/support/logged_file_system.h"

#include "tests/support/child_process.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <utility>

namespace mayfly::testing {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint32_t kLargestWrite = 1 << 20;
constexpr std::chrono::seconds kHeldDeadline{20};

/// A file's bytes, sparse.
class Content {
 public:
  void write(std::uint64_t offset, std::span<const std::byte> bytes) {
    size_ = std::max(size_, offset + bytes.size());
    while (!bytes.empty()) {
      auto& page = pages_[offset / kPage];
      const std::size_t at = offset % kPage;
      const std::size_t count = std::min<std::size_t>(bytes.size(), kPage - at);
      std::memcpy(&page[at], bytes.data(), count);
      bytes = bytes.subspan(count);
      offset += count;
    }
  }
  /// What write() does to the size, alone.
  void extend(std::uint64_t size) noexcept { size_ = std::max(size_, size); }
  void truncate(std::uint64_t size) {
    size_ = size;
    pages_.erase(pages_.lower_bound((size + kPage - 1) / kPage), pages_.end());
    if (const auto last = pages_.find(size / kPage); last != pages_.end() && size % kPage != 0)
      std::fill(last->second.begin() + static_cast<std::ptrdiff_t>(size % kPage), last->second.end(), std::byte{0});
  }
  [[nodiscard]] std::vector<std::byte> read(std::uint64_t offset, std::size_t length) const {
    if (offset >= size_) return {};
    std::vector<std::byte> bytes(std::min<std::uint64_t>(length, size_ - offset));
    for (std::size_t done = 0; done < bytes.size();) {
      const std::size_t at = (offset + done) % kPage;
      const std::size_t count = std::min<std::size_t>(bytes.size() - done, kPage - at);
      if (const auto page = pages_.find((offset + done) / kPage); page != pages_.end())
        std::memcpy(&bytes[done], &page->second[at], count);
      done += count;
    }
    return bytes;
  }
  /// Of SEEK_DATA and SEEK_HOLE; nullopt behind the last data.
  [[nodiscard]] std::optional<std::uint64_t> seek(std::uint64_t offset, bool data) const {
    if (offset >= size_) return std::nullopt;
    auto page = pages_.lower_bound(offset / kPage);
    if (data) {
      if (page == pages_.end()) return std::nullopt;
      return std::max(offset, page->first * kPage);
    }
    std::uint64_t at = offset / kPage;
    for (; page != pages_.end() && page->first == at; ++page) ++at;
    return std::min(std::max(offset, at * kPage), size_);
  }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] std::uint64_t blocks() const noexcept { return pages_.size() * (kPage / 512); }

 private:
  std::map<std::uint64_t, std::array<std::byte, kPage>> pages_;
  std::uint64_t size_ = 0;
};

struct Node {
  bool is_directory = false;
  std::map<std::string, std::uint64_t> entries{};
  Content content{};
};

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span{&value, 1});
}

}  // namespace

/// Serves the kernel's requests (linux/fuse.h), one after the other.
class LoggedFileSystem::Server {
 public:
  Server(const std::vector<std::string>& directories, Keep keep)
      : keep_(keep), fuse_(::open("/dev/fuse", O_RDWR | O_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC)) {
    if (!fuse_ || !wake_) give_up(std::string{"cannot open /dev/fuse: "} + std::strerror(errno));
    nodes_[FUSE_ROOT_ID].is_directory = true;
    for (const std::string& name : directories) {
      nodes_[FUSE_ROOT_ID].entries[name] = next_;
      nodes_[next_++].is_directory = true;
    }
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() {
    stop_ = true;
    wake();
    if (thread_.joinable()) thread_.join();
  }
  void start() {
    thread_ = std::thread{[this] { serve(); }};
  }

  [[nodiscard]] int fuse() const noexcept { return fuse_.get(); }
  [[nodiscard]] std::vector<DiskOperation> log() const {
    const std::lock_guard lock{mutex_};
    return log_;
  }
  [[nodiscard]] std::uint64_t directory(const std::string& name) const {
    const std::lock_guard lock{mutex_};
    return nodes_.at(FUSE_ROOT_ID).entries.at(name);
  }
  void delay(DiskDelay rule) {
    {
      const std::lock_guard lock{mutex_};
      if (!rule) held_.release();
      rule_ = std::move(rule);
    }
    wake();
  }
  void fail_once(DiskRequest::Kind kind, const std::string& name) {
    const std::lock_guard lock{mutex_};
    failing_ = {.kind = kind, .name = name};
  }
  void await_held(std::size_t count) {
    std::unique_lock lock{mutex_};
    if (!held_more_.wait_for(lock, kHeldDeadline, [&] { return held_.count() >= count; }))
      give_up("nothing asks the file system for more than " + std::to_string(held_.count()) + " things at once");
  }
  [[nodiscard]] std::uint64_t written() const {
    const std::lock_guard lock{mutex_};
    return written_;
  }

 private:
  void wake() const {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }
  [[nodiscard]] int poll_timeout() const {
    const std::lock_guard lock{mutex_};
    return held_.poll_timeout();
  }
  void serve() {
    std::vector<std::byte> buffer(kLargestWrite + (64 << 10));
    for (;;) {
      std::array<pollfd, 2> events{
          {{.fd = fuse_.get(), .events = POLLIN, .revents = 0}, {.fd = wake_.get(), .events = POLLIN, .revents = 0}}};
      if (::poll(events.data(), events.size(), poll_timeout()) < 0 && errno != EINTR) return;
      if (stop_) return;
      std::uint64_t count = 0;
      if (events[1].revents != 0) (void)!::read(wake_.get(), &count, sizeof count);
      answer_held();
      if (events[0].revents == 0) continue;
      const ssize_t size = ::read(fuse_.get(), buffer.data(), buffer.size());
      if (size < 0 && errno == ENODEV) return;  // not mounted any more
      if (size < static_cast<ssize_t>(sizeof(fuse_in_header))) continue;
      const std::lock_guard lock{mutex_};
      answer_or_hold(std::span{buffer}.first(static_cast<std::size_t>(size)));
    }
  }

  void answer_held() {
    const std::lock_guard lock{mutex_};
    while (const auto due = held_.take_due()) answer(due->message);
    while (const auto killed = held_.take_killed()) {
      std::memcpy(&header_, killed->message.data(), sizeof header_);
      refuse(EINTR);
    }
  }
  void answer_or_hold(std::span<const std::byte> message) {
    const DiskRequest request = describe(message);
    if (failing_ && request.kind == failing_->kind && request.name == failing_->name) {
      failing_.reset();
      std::memcpy(&header_, message.data(), sizeof header_);
      return refuse(EIO);
    }
    const double delay_us = rule_ ? rule_(request) : 0;
    if (delay_us <= 0) return answer(message);
    // Data that is thrown away is not kept while it waits, either.
    const bool is_write = request.kind == DiskRequest::Kind::Write;
    if (is_write && keep_ == Keep::NamesAlone) message = message.first(sizeof(fuse_in_header) + sizeof(fuse_write_in));
    held_.add(message, delay_us);
    held_more_.notify_all();
  }
  [[nodiscard]] DiskRequest describe(std::span<const std::byte> rest) const {
    const auto header = take<fuse_in_header>(rest);
    switch (header.opcode) {
      case FUSE_READ:
        return {DiskRequest::Kind::Read, name_of(header.nodeid), take<fuse_read_in>(rest).size};
      case FUSE_WRITE:
        return {DiskRequest::Kind::Write, name_of(header.nodeid), take<fuse_write_in>(rest).size};
      case FUSE_FSYNC:
        return {.kind = DiskRequest::Kind::Sync, .name = name_of(header.nodeid)};
      case FUSE_CREATE:
        (void)take<fuse_create_in>(rest);
        return {.kind = DiskRequest::Kind::Create, .name = take_name(rest)};
      default:
        return {.kind = DiskRequest::Kind::Other, .name = name_of(header.nodeid)};
    }
  }
  /// Nothing of the root, and of a file that is unlinked.
  [[nodiscard]] std::string name_of(std::uint64_t number) const {
    for (const auto& [directory, node] : nodes_)
      for (const auto& [name, entry] : node.entries)
        if (entry == number) return name;
    return {};
  }

  template <typename T>
  [[nodiscard]] static T take(std::span<const std::byte>& rest) {
    T value{};
    std::memcpy(&value, rest.data(), std::min(sizeof value, rest.size()));
    rest = rest.subspan(std::min(sizeof value, rest.size()));
    return value;
  }
  [[nodiscard]] static std::string take_name(std::span<const std::byte>& rest) {
    const std::string name{reinterpret_cast<const char*>(rest.data())};
    rest = rest.subspan(name.size() + 1);
    return name;
  }

  void reply(std::span<const std::byte> payload) { send(0, payload); }
  void refuse(int error) { send(-error, {}); }
  void send(int error, std::span<const std::byte> payload) {
    fuse_out_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + payload.size());
    header.error = error;
    header.unique = header_.unique;
    std::array<iovec, 2> parts{{{.iov_base = &header, .iov_len = sizeof header},
                                {.iov_base = const_cast<std::byte*>(payload.data()), .iov_len = payload.size()}}};
    (void)!::writev(fuse_.get(), parts.data(), 2);  // ENOENT: who asked was interrupted
  }

  [[nodiscard]] fuse_attr attributes(std::uint64_t number) const {
    const Node& node = nodes_.at(number);
    fuse_attr attributes{};
    attributes.ino = number;
    attributes.size = node.content.size();
    attributes.blocks = node.content.blocks();
    attributes.mode = node.is_directory ? S_IFDIR | 0755U : S_IFREG | 0600U;
    attributes.nlink = 1;
    attributes.blksize = kPage;
    return attributes;
  }
  /// Nothing is kept by the kernel: validities of 0.
  [[nodiscard]] fuse_entry_out entry(std::uint64_t number) const {
    fuse_entry_out entry{};
    entry.nodeid = number;
    entry.generation = 1;
    entry.attr = attributes(number);
    return entry;
  }
  void reply_attributes() {
    fuse_attr_out answered{};
    answered.attr = attributes(header_.nodeid);
    reply(bytes_of(answered));
  }

  void answer(std::span<const std::byte> rest) {
    header_ = take<fuse_in_header>(rest);
    switch (header_.opcode) {
      case FUSE_INIT:
        return initialize();
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        return;
      case FUSE_LOOKUP:
        return look_up(take_name(rest));
      case FUSE_GETATTR:
        return reply_attributes();
      case FUSE_SETATTR:
        return set_attributes(take<fuse_setattr_in>(rest));
      case FUSE_OPEN:
      case FUSE_OPENDIR:
        return reply(bytes_of(fuse_open_out{}));
      case FUSE_RELEASE:
      case FUSE_RELEASEDIR:
      case FUSE_FLUSH:
        return reply({});
      case FUSE_CREATE:
        (void)take<fuse_create_in>(rest);
        return create(take_name(rest));
      case FUSE_READ:
        return read(take<fuse_read_in>(rest));
      case FUSE_WRITE: {
        const auto write_in = take<fuse_write_in>(rest);
        return write(write_in, rest.first(std::min<std::size_t>(write_in.size, rest.size())));
      }
      case FUSE_LSEEK:
        return seek(take<fuse_lseek_in>(rest));
      default:
        return answer_names(rest);
    }
  }
  void answer_names(std::span<const std::byte> rest) {
    switch (header_.opcode) {
      case FUSE_UNLINK:
        return unlink(take_name(rest));
      case FUSE_RENAME:
        return rename(take<fuse_rename_in>(rest).newdir, rest);
      case FUSE_RENAME2:
        return rename_or_exchange(take<fuse_rename2_in>(rest), rest);
      case FUSE_FSYNC:
        log_.push_back({.kind = DiskOperation::Kind::SyncFile, .file = header_.nodeid});
        return reply({});
      case FUSE_FSYNCDIR:
        log_.push_back({.kind = DiskOperation::Kind::SyncDirectory, .directory = header_.nodeid});
        return reply({});
      case FUSE_READDIR:
        return list(take<fuse_read_in>(rest));
      case FUSE_STATFS:
        return describe_space();
      default:
        return refuse(ENOSYS);
    }
  }

  void initialize() {
    fuse_init_out agreed{};
    agreed.major = FUSE_KERNEL_VERSION;
    agreed.minor = 31;
    agreed.max_readahead = 128 << 10;
    // Reads ahead do not wait, as on other file systems: the page is waited for.
    agreed.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES;
    agreed.max_background = 16;
    agreed.congestion_threshold = 12;
    agreed.max_write = kLargestWrite;
    agreed.time_gran = 1;
    agreed.max_pages = kLargestWrite / kPage;
    reply(bytes_of(agreed));
  }
  void describe_space() {
    fuse_statfs_out space{};
    space.st.blocks = space.st.bfree = space.st.bavail = 1 << 20;
    space.st.bsize = space.st.frsize = kPage;
    space.st.namelen = 255;
    reply(bytes_of(space));
  }
  void look_up(const std::string& name) {
    const auto& entries = nodes_.at(header_.nodeid).entries;
    const auto found = entries.find(name);
    if (found == entries.end()) return refuse(ENOENT);
    reply(bytes_of(entry(found->second)));
  }
  void set_attributes(const fuse_setattr_in& wanted) {
    if ((wanted.valid & FATTR_SIZE) != 0) {
      nodes_.at(header_.nodeid).content.truncate(wanted.size);
      log_.push_back({.kind = DiskOperation::Kind::Truncate, .file = header_.nodeid, .offset = wanted.size});
    }
    reply_attributes();
  }
  void create(const std::string& name) {
    const std::uint64_t number = next_++;
    nodes_[number];
    nodes_.at(header_.nodeid).entries[name] = number;
    log_.push_back({.kind = DiskOperation::Kind::Create, .file = number, .directory = header_.nodeid, .name = name});
    struct {
      fuse_entry_out entry;
      fuse_open_out open;
    } const made{entry(number), {}};
    reply(bytes_of(made));
  }
  void read(const fuse_read_in& wanted) { reply(nodes_.at(header_.nodeid).content.read(wanted.offset, wanted.size)); }
  void write(const fuse_write_in& wanted, std::span<const std::byte> bytes) {
    Content& content = nodes_.at(header_.nodeid).content;
    if (keep_ == Keep::Everything) {
      content.write(wanted.offset, bytes);
      log_.push_back({.kind = DiskOperation::Kind::Write,
                      .file = header_.nodeid,
                      .offset = wanted.offset,
                      .data = {bytes.begin(), bytes.end()}});
    } else {
      content.extend(wanted.offset + wanted.size);
    }
    written_ += wanted.size;
    fuse_write_out written{};
    written.size = wanted.size;
    reply(bytes_of(written));
  }
  void seek(const fuse_lseek_in& wanted) {
    const auto found = nodes_.at(header_.nodeid).content.seek(wanted.offset, wanted.whence == SEEK_DATA);
    if (!found) return refuse(ENXIO);
    reply(bytes_of(fuse_lseek_out{.offset = *found}));
  }
  void unlink(const std::string& name) {
    auto& entries = nodes_.at(header_.nodeid).entries;
    const auto found = entries.find(name);
    if (found == entries.end()) return refuse(ENOENT);
    log_.push_back(
        {.kind = DiskOperation::Kind::Unlink, .file = found->second, .directory = header_.nodeid, .name = name});
    entries.erase(found);
    reply({});
  }
  void rename(std::uint64_t new_directory, std::span<const std::byte> rest) {
    const std::string from = take_name(rest);
    const std::string to = take_name(rest);
    auto& entries = nodes_.at(header_.nodeid).entries;
    const auto found = entries.find(from);
    if (found == entries.end()) return refuse(ENOENT);
    if (new_directory != header_.nodeid) return refuse(EXDEV);
    const std::uint64_t number = found->second;
    entries.erase(found);
    entries[to] = number;
    log_.push_back({.kind = DiskOperation::Kind::Rename,
                    .file = number,
                    .directory = header_.nodeid,
                    .name = to,
                    .old_name = from});
    reply({});
  }
  void rename_or_exchange(const fuse_rename2_in& wanted, std::span<const std::byte> rest) {
    if ((wanted.flags & RENAME_EXCHANGE) == 0)
      return rename(wanted.newdir, rest);  // the kernel has looked for the rest
    if (wanted.newdir != header_.nodeid) return refuse(EXDEV);
    const std::string from = take_name(rest);
    const std::string to = take_name(rest);
    auto& entries = nodes_.at(header_.nodeid).entries;
    if (!entries.contains(from) || !entries.contains(to)) return refuse(ENOENT);
    std::swap(entries[from], entries[to]);
    log_.push_back({.kind = DiskOperation::Kind::Exchange,
                    .file = entries[to],
                    .other = entries[from],
                    .directory = header_.nodeid,
                    .name = to,
                    .old_name = from});
    reply({});
  }
  void list(const fuse_read_in& wanted) {
    std::vector<std::byte> listed;
    std::uint64_t place = 0;
    for (const auto& [name, number] : nodes_.at(header_.nodeid).entries) {
      if (++place <= wanted.offset) continue;
      fuse_dirent one{};
      one.ino = number;
      one.off = place;
      one.namelen = static_cast<std::uint32_t>(name.size());
      one.type = nodes_.at(number).is_directory ? 4 : 8;
      const std::size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + name.size());
      if (listed.size() + size > wanted.size) break;
      const std::size_t at = listed.size();
      listed.resize(at + size);
      std::memcpy(&listed[at], &one, FUSE_NAME_OFFSET);
      std::memcpy(&listed[at + FUSE_NAME_OFFSET], name.data(), name.size());
    }
    reply(listed);
  }

  const Keep keep_;
  OwnedFd fuse_;
  OwnedFd wake_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
  mutable std::mutex mutex_;  // of all below
  DiskDelay rule_;
  std::optional<DiskRequest> failing_;  // once
  HeldRequests held_;
  std::condition_variable held_more_;
  std::uint64_t written_ = 0;
  fuse_in_header header_{};  // of the request that is served
  std::map<std::uint64_t, Node> nodes_;
  std::uint64_t next_ = FUSE_ROOT_ID + 1;
  std::vector<DiskOperation> log_;
};

LoggedFileSystem::LoggedFileSystem(std::string where, const std::vector<std::string>& directories, Keep keep)
    : where_(std::move(where)), server_(std::make_unique<Server>(directories, keep)) {
  std::filesystem::create_directory(where_);
  const std::string options =
      "fd=" + std::to_string(server_->fuse()) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
  if (::mount("logged", where_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) != 0)
    give_up("cannot mount a file system at " + where_ + ": " + std::strerror(errno));
  server_->start();
}

LoggedFileSystem::~LoggedFileSystem() { ::umount2(where_.c_str(), MNT_DETACH); }

std::vector<DiskOperation> LoggedFileSystem::log() const { return server_->log(); }

std::uint64_t LoggedFileSystem::directory(const std::string& name) const { return server_->directory(name); }

void LoggedFileSystem::delay(DiskDelay rule) { server_->delay(std::move(rule)); }

void LoggedFileSystem::fail_once(DiskRequest::Kind kind, const std::string& name) { server_->fail_once(kind, name); }

void LoggedFileSystem::await_held(std::size_t count) const { server_->await_held(count); }

std::uint64_t LoggedFileSystem::written() const { return server_->written(); }

}  // namespace mayfly::testing
