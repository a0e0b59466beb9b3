#include "rootfs-tools/image/accounts.h"

#include "vmm/base/printable.h"
#include "vmm/base/text.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <ranges>
#include <utility>

namespace mayfly::image {
namespace {

std::vector<std::string_view> split_at(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (const auto range : std::views::split(text, separator)) parts.emplace_back(range.begin(), range.end());
  return parts;
}

std::optional<std::uint32_t> number_of(std::string_view text) {
  const auto number = whole_number<std::uint32_t>(text);
  if (!number || *number == std::numeric_limits<std::uint32_t>::max()) return std::nullopt;
  return number;
}

/// The lines of passwd or group that have at least `count` fields.
std::vector<std::vector<std::string_view>> records_of(std::string_view text, std::size_t count) {
  std::vector<std::vector<std::string_view>> records;
  for (const std::string_view line : split_at(text, '\n')) {
    auto fields = split_at(trimmed(line), ':');
    if (fields.size() >= count) records.push_back(std::move(fields));
  }
  return records;
}

/// Whose account it is, by the first line that fits.
Result<RunUser> find_account(std::string_view name, std::string_view passwd, std::string& account) {
  const auto uid = number_of(name);
  for (const auto& fields : records_of(passwd, 4)) {
    const auto has_uid = number_of(fields[2]);
    const auto has_gid = number_of(fields[3]);
    if (!has_uid || !has_gid) continue;
    // Digits are a number, whatever accounts are called.
    if (name.empty() ? *has_uid != 0 : uid ? uid != has_uid : fields[0] != name) continue;
    account = fields[0];
    RunUser user{.uid = *has_uid, .gid = *has_gid};
    if (fields.size() > 5 && !fields[5].empty()) user.home = fields[5];
    return user;
  }
  if (name.empty()) return RunUser{};
  if (uid) return RunUser{.uid = *uid};
  return fail(ErrorKind::NotFound,
              "the user '{}' is not in the image's /etc/passwd; add it there, or give a number as USER",
              printable(name, kLongestShownName));
}

}  // namespace

Result<RunUser> find_user(std::string_view text, std::string_view passwd, std::string_view group) {
  const std::size_t colon = std::min(text.find(':'), text.size());
  const std::string_view group_name = text.substr(std::min(colon + 1, text.size()));
  std::string account;
  auto user = TRY(find_account(text.substr(0, colon), passwd, account));
  const auto gid = number_of(group_name);
  for (const auto& fields : records_of(group, 3)) {
    const auto has_gid = number_of(fields[2]);
    if (!has_gid) continue;
    if (!group_name.empty()) {
      if (gid ? gid != has_gid : fields[0] != group_name) continue;
      user.gid = *has_gid;
      return user;
    }
    const auto members = fields.size() > 3 ? split_at(fields[3], ',') : std::vector<std::string_view>{};
    if (!account.empty() && std::ranges::find(members, account) != members.end()) user.groups.push_back(*has_gid);
  }
  if (group_name.empty()) return user;
  if (!gid)
    return fail(ErrorKind::NotFound,
                "the group '{}' is not in the image's /etc/group; add it there, or give a number as USER:GROUP",
                printable(group_name, kLongestShownName));
  user.gid = *gid;
  return user;
}

}  // namespace mayfly::image
