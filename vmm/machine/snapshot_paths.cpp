#include "vmm/machine/snapshot_paths.h"

#include "vmm/base/files.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>

namespace mayfly {
namespace {

/// The names of a path between its slashes.
std::vector<std::string> names_of(std::string_view path) {
  std::vector<std::string> names;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    if (end > 0) names.emplace_back(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return names;
}

/// The regular file that `names` lead to from `directory`, downwards and through no link.
std::optional<struct stat> regular_file_below(OwnedFd directory, const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == "." || names[i] == "..") return std::nullopt;
    struct stat status{};
    if (::fstatat(directory.get(), names[i].c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return std::nullopt;
    if (i + 1 == names.size()) return S_ISREG(status.st_mode) ? std::optional{status} : std::nullopt;
    directory = OwnedFd{
        ::openat(directory.get(), names[i].c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
    if (!directory) return std::nullopt;
  }
  return std::nullopt;
}

/// The regular file at `path`, where it is in `directory` or below. Links above the directory do not matter, so the
/// directory is recognized by its inode, at any place of the path.
std::optional<struct stat> find_beside(const struct stat& directory, const std::string& path) {
  std::vector<std::string> below = names_of(path);
  std::string above = path.starts_with('/') ? "/" : ".";
  while (!below.empty()) {
    struct stat here{};
    if (::stat(above.c_str(), &here) != 0) return std::nullopt;
    if (is_same_file(here, directory)) {
      OwnedFd opened{::open(above.c_str(), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC)};
      if (opened && ::fstat(opened.get(), &here) == 0 && is_same_file(here, directory))
        if (auto found = regular_file_below(std::move(opened), below)) return found;
    }
    above += "/" + below.front();
    below.erase(below.begin());
  }
  return std::nullopt;
}

template <typename Override>
bool names(const std::vector<Override>& overrides, std::string Override::* id, const std::string& device) {
  return std::ranges::find(overrides, device, id) != overrides.end();
}

/// A file that is opened because the state names it.
struct NamedFile {
  const std::string& path;
  bool is_read_only = false;
};

std::vector<NamedFile> files_named_by_state(const DriveConfig& drive, const SnapshotLoadParams& params) {
  std::vector<NamedFile> files;
  const auto found = std::ranges::find(params.drive_overrides, drive.drive_id, &DriveOverride::drive_id);
  const bool overridden = found != params.drive_overrides.end();
  if (overridden && !found->base_paths.empty()) return files;
  for (const std::string& path : drive.base_paths) files.push_back({.path = path, .is_read_only = true});
  if (!overridden)
    files.push_back({.path = drive.path_on_host, .is_read_only = drive.is_read_only});
  else if (adds_layer(drive, *found))
    files.push_back({.path = drive.path_on_host, .is_read_only = true});
  return files;
}

}  // namespace

bool adds_layer(const DriveConfig& drive, const DriveOverride& replacement) {
  struct stat status{};
  return !drive.base_paths.empty() && replacement.base_paths.empty() && !drive.is_read_only &&
         ::stat(replacement.path_on_host.c_str(), &status) != 0 && errno == ENOENT;
}

Result<std::vector<FoundFile>> check_named_paths(const Snapshot& snapshot, const SnapshotLoadParams& params) {
  std::vector<FoundFile> beside;
  if (params.paths == StatePaths::Trusted) return beside;
  struct stat directory{};
  if (::stat(directory_of(params.snapshot_path).c_str(), &directory) != 0)
    return fail_errno(ErrorKind::System, "the directory of snapshot_path {} cannot be looked at", params.snapshot_path);
  std::string elsewhere;
  for (const DriveState& drive : snapshot.drives) {
    const DriveConfig& config = drive.config;
    for (const NamedFile& file : files_named_by_state(config, params))
      if (const auto found = find_beside(directory, file.path))
        beside.push_back({.path = file.path, .device = found->st_dev, .inode = found->st_ino});
      else
        elsewhere += fmt::format("{}drive {} ({}, {})", elsewhere.empty() ? "" : ", ", config.drive_id, file.path,
                                 file.is_read_only ? "to be read" : "to be written to");
  }
  for (const NetworkInterfaceState& interface : snapshot.network_interfaces)
    if (!interface.config.host_dev_name.empty() &&
        !names(params.network_overrides, &NetworkOverride::iface_id, interface.config.iface_id))
      elsewhere += fmt::format("{}network interface {} (TAP {})", elsewhere.empty() ? "" : ", ",
                               interface.config.iface_id, interface.config.host_dev_name);
  for (const ChannelConfig& channel : snapshot.channels)
    if (std::ranges::find(params.channel_overrides, channel.port, &ChannelOverride::port) ==
        params.channel_overrides.end())
      elsewhere +=
          fmt::format("{}channel {} (socket {})", elsewhere.empty() ? "" : ", ", channel.port, channel.uds_path);
  if (elsewhere.empty()) return beside;
  return fail(
      ErrorKind::Permission,
      "snapshot_path {} names what does not lie beside it: {}; name what each is to have by drive_overrides, "
      "network_overrides and channel_overrides (mayfly restore: --drive ID=PATH, --tap ID=NAME, --channel PORT=PATH), "
      "or trust whoever made the snapshot: set paths to Trusted (--trust-paths)",
      params.snapshot_path, elsewhere);
}

}  // namespace mayfly
