#include "rootfs-tools/image/file_tree.h"

#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <ranges>
#include <utility>

namespace mayfly::image {
namespace {

/// As Linux has them (limits.h, namei.h).
constexpr std::size_t kLongestName = 255;
constexpr std::size_t kLongestPath = 4096;
constexpr int kMostLinksOfPath = 40;
/// Deeper than any path that can be given to a system call at once is deep; trees are walked by recursion.
constexpr std::size_t kDeepest = 1024;
/// Of directories that no layer has, and that entries below them imply.
constexpr std::uint16_t kImpliedMode = 0755;

std::uint64_t metadata_bytes_of(const Inode& inode) {
  std::uint64_t bytes = inode.target.size();
  // An attribute takes more memory than most have letters.
  for (const ExtendedAttribute& each : inode.attributes) bytes += sizeof each + each.name.size() + each.value.size();
  return bytes;
}

std::string shown(std::string_view text) { return printable(text, kLongestShownName); }

Status check_name(std::string_view name) {
  if (name.size() <= kLongestName) return {};
  return fail(ErrorKind::TooLarge, "the name '{}' has {} bytes, and Linux takes {}; rename it in the image",
              shown(name), name.size(), kLongestName);
}

}  // namespace

FileTree::FileTree(const ImageLimits& limits)
    : limits_(limits), root_{.inode = std::make_shared<Inode>(Inode{.mode = kImpliedMode})} {}

/// The names of a path from the root, "." and ".." taken literally, as the archive's maker saw them.
Result<FileTree::Names> FileTree::names_in(std::string_view path) {
  if (path.size() > kLongestPath)
    return fail(ErrorKind::TooLarge, "the path has {} bytes, and Linux takes {}; remove it from the image", path.size(),
                kLongestPath);
  Names names;
  for (const auto part : std::views::split(path, '/')) {
    const std::string_view name{part.begin(), part.end()};
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      if (names.empty())
        return fail(ErrorKind::InvalidArgument,
                    "the path '{}' leads out of the image; do not use this image, which may be an attack", shown(path));
      names.pop_back();
      continue;
    }
    TRY(check_name(name));
    names.emplace_back(name);
  }
  return names;
}

Status FileTree::count_entry(std::uint64_t metadata_bytes) {
  if (++entries_ > limits_.max_files)
    return fail(ErrorKind::TooLarge, "the image has over {} files; --max-files raises the limit", limits_.max_files);
  metadata_bytes_ += metadata_bytes;
  if (metadata_bytes_ > limits_.max_metadata_bytes)
    return fail(ErrorKind::TooLarge,
                "names, links and extended attributes have over {} bytes; --max-metadata raises the limit",
                limits_.max_metadata_bytes);
  return {};
}

Status FileTree::count_lookup() {
  if (++lookups_ <= limits_.max_lookups) return {};
  return fail(ErrorKind::TooLarge, "its paths take over {} look-ups; do not use this image, which may be an attack",
              limits_.max_lookups);
}

Result<FileTree::Place> FileTree::walk(const Names& names) {
  Place place{.directories = {&root_}, .missing = {}};
  Names pending{names.rbegin(), names.rend()};
  int links = 0;
  while (!pending.empty()) {
    TRY(count_lookup());
    const std::string name = std::move(pending.back());
    pending.pop_back();
    if (name == "..") {
      if (!place.missing.empty())
        place.missing.pop_back();
      else if (place.directories.size() > 1)
        place.directories.pop_back();
      continue;
    }
    auto& children = place.directories.back()->inode->children;
    const auto found = place.missing.empty() ? children.find(name) : children.end();
    if (found == children.end()) {
      place.missing.push_back(name);
    } else if (found->second.inode->kind == InodeKind::Directory) {
      place.directories.push_back(&found->second);
    } else if (found->second.inode->kind == InodeKind::Symlink) {
      const std::string& target = found->second.inode->target;
      if (++links > kMostLinksOfPath)
        return fail(ErrorKind::InvalidArgument, "its path goes through over {} symbolic links, the last one to '{}'",
                    kMostLinksOfPath, shown(target));
      if (target.starts_with('/')) place.directories.resize(1);
      std::vector<std::string> further;
      for (const auto part : std::views::split(std::string_view{target}, '/')) {
        std::string each{part.begin(), part.end()};
        if (!each.empty() && each != ".") further.push_back(std::move(each));
      }
      std::ranges::move(further | std::views::reverse, std::back_inserter(pending));
    } else {
      place.blocked_by = found->second.inode.get();
      place.at_end = pending.empty();
      return place;
    }
    if (place.directories.size() + place.missing.size() > kDeepest)
      return fail(ErrorKind::TooLarge, "it is over {} directories deep; remove it from the image", kDeepest);
  }
  return place;
}

Result<Entry*> FileTree::make_parent(const Names& names) {
  auto place = TRY(walk({names.begin(), names.end() - 1}));
  if (place.blocked_by != nullptr)
    return fail(ErrorKind::InvalidArgument, "something above it is no directory; build the image anew");
  for (const std::string& name : place.missing) {
    TRY(check_name(name));  // of a link's target
    TRY(count_entry(name.size()));
    Entry made{.inode = std::make_shared<Inode>(Inode{.mode = kImpliedMode})};
    auto& children = place.directories.back()->inode->children;
    place.directories.push_back(&children.emplace(name, std::move(made)).first->second);
  }
  for (Entry* const each : place.directories) each->layer = layer_;
  return place.directories.back();
}

Status FileTree::put_root(Inode inode) {
  if (inode.kind != InodeKind::Directory)
    return fail(ErrorKind::InvalidArgument, "the root of the image is no directory; build the image anew");
  inode.children = std::move(root_.inode->children);
  *root_.inode = std::move(inode);
  return {};
}

Status FileTree::put(std::string_view path, Inode inode) {
  const auto names = TRY(names_in(path));
  TRY(count_entry(metadata_bytes_of(inode) + (names.empty() ? 0 : names.back().size())));
  if (names.empty()) return put_root(std::move(inode));
  Entry* const parent = TRY(make_parent(names));
  Entry& entry = parent->inode->children[names.back()];
  entry.layer = layer_;
  if (entry.inode != nullptr && entry.inode->kind == InodeKind::Directory && inode.kind == InodeKind::Directory)
    inode.children = std::move(entry.inode->children);
  entry.inode = std::make_shared<Inode>(std::move(inode));
  return {};
}

Status FileTree::link(std::string_view path, std::string_view target) {
  const auto names = TRY(names_in(path));
  const auto targets = TRY(names_in(target));
  if (names.empty())
    return fail(ErrorKind::InvalidArgument, "the root of the image is a hard link; build the image anew");
  TRY(count_entry(names.back().size()));
  Entry* const parent = TRY(make_parent(names));
  // What is there goes first, and a link to it or to what is below it has no target: so it is for who extracts.
  parent->inode->children.erase(names.back());
  std::shared_ptr<Inode> linked;
  if (!targets.empty()) {
    auto place = TRY(walk({targets.begin(), targets.end() - 1}));
    if (place.blocked_by == nullptr && place.missing.empty()) {
      const auto& children = place.directories.back()->inode->children;
      if (const auto found = children.find(targets.back()); found != children.end()) linked = found->second.inode;
    }
  }
  if (linked == nullptr)
    return fail(ErrorKind::InvalidArgument, "it is a hard link to '{}', which is not there; build the image anew",
                shown(target));
  if (linked->kind == InodeKind::Directory)
    return fail(ErrorKind::InvalidArgument, "it is a hard link to the directory '{}'; build the image anew",
                shown(target));
  parent->inode->children[names.back()] = {.inode = std::move(linked), .layer = layer_};
  return {};
}

Status FileTree::remove_lower(std::map<std::string, Entry, std::less<>>& children,
                              std::map<std::string, Entry, std::less<>>::iterator entry) {
  TRY(count_lookup());
  if (entry->second.layer != layer_)
    children.erase(entry);
  else if (entry->second.inode->kind == InodeKind::Directory)
    return remove_lower_children(*entry->second.inode);
  return {};
}

Status FileTree::remove_lower_children(Inode& directory) {
  for (auto each = directory.children.begin(); each != directory.children.end();) {
    const auto entry = each++;
    TRY(remove_lower(directory.children, entry));
  }
  return {};
}

Status FileTree::white_out(std::string_view path) {
  const auto names = TRY(names_in(path));
  if (names.empty()) return fail(ErrorKind::InvalidArgument, "a whiteout of the root; build the image anew");
  auto place = TRY(walk({names.begin(), names.end() - 1}));
  if (place.blocked_by != nullptr || !place.missing.empty()) return {};
  auto& children = place.directories.back()->inode->children;
  const auto entry = children.find(names.back());
  if (entry == children.end()) return {};
  return remove_lower(children, entry);
}

Status FileTree::make_opaque(std::string_view path) {
  const auto names = TRY(names_in(path));
  auto place = TRY(walk(names));
  if (place.blocked_by != nullptr || !place.missing.empty()) return {};
  return remove_lower_children(*place.directories.back()->inode);
}

const Inode* FileTree::find(std::string_view path) {
  const auto names = names_in(path);
  if (!names) return nullptr;
  const auto place = walk(*names);
  if (!place || !place->missing.empty()) return nullptr;
  if (place->blocked_by != nullptr) return place->at_end ? place->blocked_by : nullptr;
  return place->directories.back()->inode.get();
}

}  // namespace mayfly::image
