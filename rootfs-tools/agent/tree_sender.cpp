#include "rootfs-tools/agent/tree.h"
#include "vmm/base/try.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>

namespace mayfly::agent {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using OpenDirectory = std::unique_ptr<DIR, CloseDirectory>;

TreeEntry entry_of(const struct stat& file, EntryType type) {
  TreeEntry entry;
  entry.type = type;
  entry.mode = file.st_mode & 07777U;
  entry.uid = file.st_uid;
  entry.gid = file.st_gid;
  entry.seconds = file.st_mtim.tv_sec;
  entry.nanoseconds = static_cast<std::uint32_t>(file.st_mtim.tv_nsec);
  if (type == EntryType::File) entry.size = static_cast<std::uint64_t>(file.st_size);
  return entry;
}

class TreeSender {
 public:
  TreeSender(FrameStream& stream, const TreeHooks& hooks) : stream_(stream), hooks_(hooks) {}

  Status send(const TreeSource& source) {
    TRY(send_one(source.directory.get(), source.name, source.name));
    while (!levels_.empty()) TRY(send_next());
    return stream_.send(FrameType::TreeEnd);
  }

 private:
  struct Level {
    OpenDirectory directory;
    std::string path;
  };

  Status note(const std::string& sentence) {
    if (hooks_.note) hooks_.note(sentence);
    return {};
  }

  /// What errno says of a name. In a tree that is in use, names vanish while it is read; that must not end the copy.
  Status miss(std::string_view verb, const std::string& path) {
    // ESRCH: of a process, in /proc.
    if ((errno == ENOENT || errno == ESRCH) && !levels_.empty()) return note(path + " has vanished, and is left out");
    return fail_errno(ErrorKind::System, "cannot {} {}", verb, path);
  }

  /// The next file of the innermost directory, or its end.
  Status send_next() {
    const Level& level = levels_.back();
    errno = 0;
    const dirent* const next = ::readdir(level.directory.get());  // NOLINT(concurrency-mt-unsafe): the only reader
    if (next == nullptr && errno != 0) return fail_errno(ErrorKind::System, "cannot read the directory {}", level.path);
    if (next == nullptr) {
      levels_.pop_back();
      return stream_.send(FrameType::Leave);
    }
    const std::string name = next->d_name;
    if (name == "." || name == "..") return {};
    return send_one(::dirfd(level.directory.get()), name, level.path + '/' + name);
  }

  Status send_one(int directory, const std::string& name, const std::string& path) {
    struct stat file{};
    if (::fstatat(directory, name.c_str(), &file, AT_SYMLINK_NOFOLLOW) != 0) return miss("look at", path);
    switch (file.st_mode & S_IFMT) {
      case S_IFREG:
        return send_file(directory, name, path);
      case S_IFDIR:
        return send_directory(directory, name, path);
      case S_IFLNK:
        return send_link(directory, name, path, file);
      case S_IFIFO:
        return send_entry(entry_of(file, EntryType::Fifo), name);
      default:
        return note(path + (S_ISSOCK(file.st_mode) ? " is a socket" : " is a device") + ", and is left out");
    }
  }

  /// The root has no name.
  Status send_entry(TreeEntry entry, const std::string& name) {
    if (!levels_.empty()) entry.name = name;
    ++counts_.entries;
    TRY(between());
    return stream_.send(FrameType::Entry, encode(entry));
  }

  Status send_link(int directory, const std::string& name, const std::string& path, const struct stat& file) {
    TreeEntry entry = entry_of(file, EntryType::Link);
    entry.target.resize(PATH_MAX);
    const ssize_t length = ::readlinkat(directory, name.c_str(), entry.target.data(), entry.target.size());
    if (length <= 0) return miss("read the link", path);
    entry.target.resize(static_cast<std::size_t>(length));
    return send_entry(std::move(entry), name);
  }

  Status send_directory(int parent, const std::string& name, const std::string& path) {
    if (levels_.size() == kDeepestTree)
      return fail(ErrorKind::TooLarge, "{} is deeper than {} directories; copy a part of the tree", path, kDeepestTree);
    OwnedFd fd{::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
    struct stat file{};
    if (!fd || ::fstat(fd.get(), &file) != 0) return miss("open the directory", path);
    OpenDirectory directory{::fdopendir(fd.get())};
    if (!directory) return fail_errno(ErrorKind::System, "cannot read the directory {}", path);
    (void)fd.release();  // closed with it
    TRY(send_entry(entry_of(file, EntryType::Directory), name));
    levels_.push_back({.directory = std::move(directory), .path = path});
    return {};
  }

  Status send_file(int directory, const std::string& name, const std::string& path) {
    // O_NONBLOCK: by now the name may be a pipe's.
    const OwnedFd file{::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)};
    struct stat status{};
    if (!file || ::fstat(file.get(), &status) != 0) return miss("open", path);
    if (!S_ISREG(status.st_mode)) return fail(ErrorKind::State, "{} was replaced while it was copied", path);
    TRY(send_entry(entry_of(status, EntryType::File), name));
    // Files of /proc have size 0 and content, which SEEK_DATA does not find.
    if (status.st_size == 0) return send_pieces(file.get(), path, 0, std::numeric_limits<off_t>::max());
    return send_data(file.get(), path);
  }

  /// To the file's end as it is found, whatever its size was. Each piece of data after the hole before it.
  Status send_data(int file, const std::string& path) {
    off_t at = 0;
    for (;;) {
      const off_t data = ::lseek(file, at, SEEK_DATA);
      const bool is_over = data < 0 && errno == ENXIO;
      if (data < 0 && !is_over)
        return send_pieces(file, path, at, std::numeric_limits<off_t>::max());  // knows no holes
      const off_t until = is_over ? ::lseek(file, 0, SEEK_END) : data;
      if (until > at) TRY(stream_.send(FrameType::Hole, encode_length(static_cast<std::uint64_t>(until - at))));
      if (is_over) return {};
      const off_t hole = ::lseek(file, data, SEEK_HOLE);
      at = hole > data ? hole : std::numeric_limits<off_t>::max();
      TRY(send_pieces(file, path, data, at));
      if (hole <= data) return {};
    }
  }

  Status send_pieces(int file, const std::string& path, off_t at, off_t end) {
    while (at < end) {
      const auto wanted = static_cast<std::size_t>(std::min<off_t>(end - at, static_cast<off_t>(piece_.size())));
      const ssize_t count = ::pread(file, piece_.data(), wanted, at);
      if (count < 0 && errno == EINTR) continue;
      // Some of the kernel's files can be written to alone, or say nothing now.
      if (count < 0 && at == 0 && errno != EIO && !levels_.empty())
        return note(path + " cannot be read (" + errno_text(errno) + "), and is copied empty");
      if (count < 0) return fail_errno(ErrorKind::System, "cannot read {}", path);
      if (count == 0) return {};  // it has been cut
      TRY(stream_.send(FrameType::Data, {piece_.data(), static_cast<std::size_t>(count)}));
      at += count;
      counts_.bytes += static_cast<std::uint64_t>(count);
      TRY(between());
    }
    return {};
  }

  Status between() {
    if (hooks_.progress) hooks_.progress(counts_);
    return hooks_.check ? hooks_.check() : Status{};
  }

  FrameStream& stream_;
  const TreeHooks& hooks_;
  TreeCounts counts_;
  std::vector<Level> levels_;
  std::vector<char> piece_ = std::vector<char>(kLongestPayload);
};

/// A path taken apart: what it leads to, or a name in what its front leads to.
struct TakenApart {
  std::string front;
  std::string name;  ///< Empty: the path is a directory's.
};

TakenApart take_apart(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") return {.front = path, .name = ""};
  return {.front = slash == std::string::npos ? "." : path.substr(0, slash + 1), .name = std::move(name)};
}

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

Result<OwnedFd> open_directory(const std::string& path) {
  OwnedFd directory{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!directory) return fail_errno(ErrorKind::NotFound, "cannot open the directory {}", path);
  return directory;
}

}  // namespace

Result<TreeSource> find_source(const std::string& path) {
  const TakenApart parts = take_apart(path);
  auto directory = open_directory(parts.front);
  if (!directory) return propagate(directory);
  return TreeSource{.directory = std::move(*directory), .name = parts.name.empty() ? "." : parts.name};
}

std::string name_of_source(const std::string& path) { return take_apart(without_slashes(path)).name; }

Status send_tree(FrameStream& stream, const TreeSource& source, const TreeHooks& hooks) {
  return TreeSender{stream, hooks}.send(source);
}

Result<TreeDestination> find_destination(const std::string& path, const std::string& name) {
  struct stat there{};
  if (::stat(path.c_str(), &there) == 0 && S_ISDIR(there.st_mode)) {
    auto directory = open_directory(path);
    if (!directory) return propagate(directory);
    return TreeDestination{.directory = std::move(*directory), .name = name};
  }
  const TakenApart parts = take_apart(without_slashes(path));
  if (parts.name.empty()) return fail(ErrorKind::NotFound, "there is no directory {}", path);
  auto directory = open_directory(parts.front);
  if (!directory) return propagate(directory);
  return TreeDestination{
      .directory = std::move(*directory), .name = parts.name, .must_be_dir = path.ends_with('/') || name.empty()};
}

}  // namespace mayfly::agent
