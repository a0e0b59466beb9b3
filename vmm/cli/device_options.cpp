#include "vmm/cli/device_options.h"

#include "vmm/base/text.h"
#include "vmm/config/device_names.h"
#include "vmm/config/mac_address.h"

#include <algorithm>
#include <optional>
#include <string_view>

namespace mayfly {
namespace {

/// One part that an option's value may have: "name=value", or the word "name".
template <typename Config>
struct Part {
  std::string_view name;
  Status (*apply)(Config& config, std::string_view value);
  std::string_view stands_for{};  ///< Another part, which is then given.
  bool takes_value = false;
  bool may_repeat = false;
};

/// An option: what it is called, and its parts. The first is required, and its name may be left out.
template <typename Config>
struct Option {
  std::string_view name;
  std::span<const Part<Config>> parts;
};

/// The text between commas; two commas are one that belongs to the text.
std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> pieces(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool doubled = text.substr(i).starts_with(",,");
    if (text[i] == ',' && !doubled) {
      pieces.emplace_back();
      continue;
    }
    pieces.back() += text[i];
    if (doubled) ++i;
  }
  return pieces;
}

template <typename Config>
std::string names_of(std::span<const Part<Config>> parts) {
  std::string names;
  for (const Part<Config>& part : parts)
    names += fmt::format("{}{}{}", names.empty() ? "" : ", ", part.name, part.takes_value ? "=" : "");
  return names;
}

template <typename Config>
const Part<Config>* find_part(const Option<Config>& option, std::string_view name) {
  const auto found = std::ranges::find(option.parts, name, &Part<Config>::name);
  return found == option.parts.end() ? nullptr : &*found;
}

/// The pieces of a value. One that begins with the path or the TAP itself gets that part's name.
template <typename Config>
std::vector<std::string> named_pieces(const Option<Config>& option, std::string_view text) {
  auto pieces = split(text);
  std::string& first = pieces.front();
  const Part<Config>* part = find_part(option, std::string_view{first}.substr(0, first.find('=')));
  const bool named = first.contains('=') && part != nullptr && part->takes_value;
  if (!named) first = fmt::format("{}={}", option.parts.front().name, first);
  return pieces;
}

/// Puts one piece into the configuration. `seen` are the names of those before it.
template <typename Config>
Status apply_piece(const Option<Config>& option, std::string_view piece, Config& config,
                   std::vector<std::string_view>& seen) {
  const std::size_t equals = std::min(piece.find('='), piece.size());
  const std::string_view value = piece.substr(std::min(equals + 1, piece.size()));
  const Part<Config>* part = find_part(option, piece.substr(0, equals));
  if (part == nullptr)
    return fail(ErrorKind::InvalidArgument, "there is no part \"{}\"; the parts are {}", piece, names_of(option.parts));
  const std::string_view name = part->stands_for.empty() ? part->name : part->stands_for;
  if (!part->may_repeat && std::ranges::find(seen, name) != seen.end())
    return fail(ErrorKind::InvalidArgument, "{} is there twice", name);
  if (part->takes_value && value.empty()) return fail(ErrorKind::InvalidArgument, "{} has no value", part->name);
  if (!part->takes_value && equals < piece.size())
    return fail(ErrorKind::InvalidArgument, "{} takes no value", part->name);
  seen.push_back(name);
  return part->apply(config, value);
}

template <typename Config>
Result<Config> read_value(const Option<Config>& option, const std::string& text) {
  Config config;
  std::vector<std::string_view> seen;
  for (const std::string& piece : named_pieces(option, text)) {
    if (auto applied = apply_piece(option, piece, config, seen); !applied)
      return propagate(applied, fmt::format("{} {}", option.name, text));
  }
  const std::string_view needed = option.parts.front().name;
  if (std::ranges::find(seen, needed) == seen.end())
    return fail(ErrorKind::InvalidArgument, "{} {}: {} is missing", option.name, text, needed);
  return config;
}

/// Whether a drive's path is called an overlay.
bool gives_overlay(std::string_view text) {
  return std::ranges::any_of(split(text), [](std::string_view piece) { return piece.starts_with("overlay="); });
}

/// All values of an option. Those without an id get `prefix` and their place; no two may have the same.
template <typename Config>
Result<std::vector<Config>> read_values(const Option<Config>& option, std::span<const std::string> values,
                                        std::string Config::* id, std::string_view prefix) {
  std::vector<Config> configs;
  for (const std::string& value : values) {
    auto config = read_value(option, value);
    if (!config) return propagate(config);
    if (((*config).*id).empty()) (*config).*id = fmt::format("{}{}", prefix, configs.size());
    if (std::ranges::find(configs, (*config).*id, id) != configs.end())
      return fail(ErrorKind::InvalidArgument,
                  "{} {}: the id \"{}\" is taken by another {}; give one with id=", option.name, value, (*config).*id,
                  option.name);
    configs.push_back(std::move(*config));
  }
  return configs;
}

Status check_id(std::string_view id) {
  if (is_device_id(id)) return {};
  return fail(ErrorKind::InvalidArgument, "id must be {}, not \"{}\"", kDeviceIdRule, id);
}

Status set_cache(DriveConfig& drive, std::string_view name) {
  if (name != "writeback" && name != "unsafe")
    return fail(ErrorKind::InvalidArgument, "cache must be unsafe or writeback, not \"{}\"", name);
  drive.cache_type = name == "writeback" ? CacheType::Writeback : CacheType::Unsafe;
  return {};
}

Status set_tap(NetworkInterfaceConfig& interface, std::string_view name) {
  if (!is_interface_name(name))
    return fail(ErrorKind::InvalidArgument, "tap must be {}, not \"{}\"", kInterfaceNameRule, name);
  interface.host_dev_name = name;
  return {};
}

Status set_mac(NetworkInterfaceConfig& interface, std::string_view text) {
  const auto address = parse_mac_address(text);
  if (!address) return fail(ErrorKind::InvalidArgument, "mac: {}", address.error().message);
  interface.guest_mac = *address;
  return {};
}

Status set_mtu(NetworkInterfaceConfig& interface, std::string_view text) {
  const auto mtu = whole_number<unsigned>(text);
  if (!mtu || *mtu < kSmallestMtu || *mtu > kLargestMtu)
    return fail(ErrorKind::InvalidArgument, "mtu must be from {} to {}, not \"{}\"", kSmallestMtu, kLargestMtu, text);
  interface.mtu = static_cast<std::uint16_t>(*mtu);
  return {};
}

Status set_discard(DriveConfig& drive, std::string_view) {
  drive.discard = Discard::Unmap;
  return {};
}

/// A part that is a word: sets `member`.
template <bool DriveConfig::* member>
Status set_true(DriveConfig& drive, std::string_view) {
  drive.*member = true;
  return {};
}

template <typename Config, std::string Config::* member>
Status set_id(Config& config, std::string_view id) {
  config.*member = id;
  return check_id(id);
}

Status set_path(DriveConfig& drive, std::string_view path) {
  drive.path_on_host = path;
  return {};
}

Status add_base(DriveConfig& drive, std::string_view path) {
  drive.base_paths.emplace_back(path);
  return {};
}

constexpr Part<DriveConfig> kDriveParts[] = {
    {.name = "path", .apply = set_path, .takes_value = true},
    {.name = "id", .apply = set_id<DriveConfig, &DriveConfig::drive_id>, .takes_value = true},
    {.name = "ro", .apply = set_true<&DriveConfig::is_read_only>},
    {.name = "root", .apply = set_true<&DriveConfig::is_root_device>},
    {.name = "direct", .apply = set_true<&DriveConfig::direct>},
    {.name = "cache", .apply = set_cache, .takes_value = true},
    {.name = "discard", .apply = set_discard},
    {.name = "base", .apply = add_base, .takes_value = true, .may_repeat = true},
    {.name = "overlay", .apply = set_path, .stands_for = "path", .takes_value = true},
};
constexpr Part<NetworkInterfaceConfig> kNetParts[] = {
    {.name = "tap", .apply = set_tap, .takes_value = true},
    {.name = "id", .apply = set_id<NetworkInterfaceConfig, &NetworkInterfaceConfig::iface_id>, .takes_value = true},
    {.name = "mac", .apply = set_mac, .takes_value = true},
    {.name = "mtu", .apply = set_mtu, .takes_value = true},
};

}  // namespace

Result<std::vector<DriveConfig>> read_drive_options(std::span<const std::string> values) {
  auto drives = read_values<DriveConfig>({"--drive", kDriveParts}, values, &DriveConfig::drive_id, "drive");
  if (!drives) return drives;
  for (std::size_t i = 0; i < drives->size(); ++i)
    if ((*drives)[i].base_paths.empty() && gives_overlay(values[i]))
      return fail(ErrorKind::InvalidArgument, "--drive {}: overlay needs the image below it; add base=IMAGE",
                  values[i]);
  const auto root = std::ranges::find_if(*drives, &DriveConfig::is_root_device);
  const auto second =
      root == drives->end()
          ? root
          : std::find_if(root + 1, drives->end(), [](const DriveConfig& drive) { return drive.is_root_device; });
  if (second == drives->end()) return drives;
  return fail(ErrorKind::InvalidArgument, "--drive {}: root is already {}, and only one drive can be",
              values[static_cast<std::size_t>(second - drives->begin())], root->path_on_host);
}

Result<std::vector<NetworkInterfaceConfig>> read_net_options(std::span<const std::string> values) {
  return read_values<NetworkInterfaceConfig>({"--net", kNetParts}, values, &NetworkInterfaceConfig::iface_id, "eth");
}

}  // namespace mayfly
