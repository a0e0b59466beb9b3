#pragma once

#include "rootfs-tools/agent/frame_stream.h"
#include "vmm/base/owned_fd.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

/// Trees of files between a guest and its host. Both sides send and receive by this code.
///
///   auto source = TRY(find_source("/etc/nginx"));
///   TRY(send_tree(stream, source, hooks));                       // up to TREE END
///
///   auto place = TRY(find_destination("/tmp/", "nginx"));
///   auto counts = TRY(receive_tree(stream, std::move(place), SetIdBits::Cleared, hooks));
///
/// A receiver resolves no path of the sender's: an entry has a name without a slash, in the directory that is open, and
/// a name that is a link is replaced, never followed. So nothing is written outside of the destination. Files get their
/// names once they are whole. Kept are owners (where the user may), permissions, times to the nanosecond, symbolic links
/// as they are, FIFOs, holes. Hard links become files; sockets and devices are left out, with a note.
namespace mayfly::agent {

inline constexpr std::size_t kDeepestTree = 256;  ///< Directories within one another, each of which is open.

struct TreeCounts {
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;  ///< Of data; holes are none.
};

/// What happens meanwhile; each may be absent.
struct TreeHooks {
  std::function<void(std::string_view)> note{};  ///< A sentence about what was left out.
  std::function<void(const TreeCounts&)> progress{};
  /// Of a sender: called between frames. An error ends the tree.
  std::function<Status()> check{};
};

struct TreeSource {
  OwnedFd directory;
  std::string name;  ///< In it; "." is the directory itself.
};
/// A path that ends in "/", "/." or "/.." is the directory that it leads to; any other last name is not followed.
[[nodiscard]] Result<TreeSource> find_source(const std::string& path);
/// What its copy is called in a directory: empty for "/" and what ends in ".", whose content alone is copied.
[[nodiscard]] std::string name_of_source(const std::string& path);

/// Errors: a file cannot be read; the connection has ended; hooks.check.
[[nodiscard]] Status send_tree(FrameStream& stream, const TreeSource& source, const TreeHooks& hooks);

struct TreeDestination {
  OwnedFd directory;
  std::string name;          ///< Of the root in it; empty: the root is the directory.
  bool must_be_dir = false;  ///< The path ends in a slash, and is not there yet.
};
/// As cp does: where `path` is a directory, the tree becomes `name` in it, and else it becomes `path`.
[[nodiscard]] Result<TreeDestination> find_destination(const std::string& path, const std::string& name);

/// Whether the sender may make programs that run as their owner: a guest's root may not, on its host.
enum class SetIdBits { Kept, Cleared };

/// Takes a tree, frame by frame. What is not whole at its end is removed.
class TreeReceiver {
 public:
  TreeReceiver(TreeDestination destination, SetIdBits set_id, const TreeHooks& hooks);
  TreeReceiver(const TreeReceiver&) = delete;
  TreeReceiver& operator=(const TreeReceiver&) = delete;
  ~TreeReceiver();

  /// True: that was the tree's end. Errors: the frame does not belong here; a file cannot be written.
  [[nodiscard]] Result<bool> take(const Frame& frame);
  [[nodiscard]] const TreeCounts& counts() const noexcept { return counts_; }

 private:
  struct Level {
    OwnedFd directory;
    TreeEntry entry;
    bool is_destination = false;  ///< It was there, and is not the tree's: it stays as it is.
  };

  [[nodiscard]] Status take_entry(std::string_view payload);
  [[nodiscard]] Status enter(TreeEntry entry);
  [[nodiscard]] Status leave();
  [[nodiscard]] Status open_file(TreeEntry entry);
  [[nodiscard]] Status append(std::string_view data);
  [[nodiscard]] Status skip(std::string_view payload);
  [[nodiscard]] Status finish_file();
  [[nodiscard]] Status make_link(const TreeEntry& entry);
  [[nodiscard]] Status make_fifo(const TreeEntry& entry);
  /// The new file gets its name.
  [[nodiscard]] Status put_in_place(const TreeEntry& entry);
  /// Owner, permissions and times of what is open.
  [[nodiscard]] Status finish_attributes(const OwnedFd& file, const TreeEntry& entry) const;
  [[nodiscard]] int here() const noexcept;
  [[nodiscard]] std::string shown(const TreeEntry& entry) const;

  TreeDestination destination_;
  SetIdBits set_id_;
  const TreeHooks& hooks_;
  TreeCounts counts_;
  bool has_root_ = false;
  std::vector<Level> levels_;
  OwnedFd file_;
  TreeEntry file_entry_;
  std::uint64_t offset_ = 0;
  std::string new_name_;  ///< Of what is in the making in here(); empty: nothing is.
};

/// Up to TREE END. A REFUSED of the sender is an error.
[[nodiscard]] Result<TreeCounts> receive_tree(FrameStream& stream, TreeDestination destination, SetIdBits set_id,
                                              const TreeHooks& hooks);

/// The error that a REFUSED frame is.
[[nodiscard]] std::unexpected<Error> refused(const Frame& frame);

}  // namespace mayfly::agent
