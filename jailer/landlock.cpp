#include "jailer/landlock.h"

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <span>

namespace mayfly::jailer {
namespace {

// Of kernels that are younger than the headers we build with (linux/landlock.h of 6.12).
constexpr std::uint64_t kRefer = 1ULL << 13;
constexpr std::uint64_t kTruncate = 1ULL << 14;
constexpr std::uint64_t kIoctlDevice = 1ULL << 15;
constexpr std::uint64_t kBindAndConnectTcp = 3;
constexpr std::uint64_t kScopeAbstractSocketsAndSignals = 3;

struct RulesetAttributes {
  std::uint64_t handled_access_fs;
  std::uint64_t handled_access_net;
  std::uint64_t scoped;
};

/// What each version knows in addition, from 1 on.
constexpr std::array<RulesetAttributes, 6> kAdded = {{
    {.handled_access_fs = kRefer - 1, .handled_access_net = 0, .scoped = 0},
    {.handled_access_fs = kRefer, .handled_access_net = 0, .scoped = 0},
    {.handled_access_fs = kTruncate, .handled_access_net = 0, .scoped = 0},
    {.handled_access_fs = 0, .handled_access_net = kBindAndConnectTcp, .scoped = 0},
    {.handled_access_fs = kIoctlDevice, .handled_access_net = 0, .scoped = 0},
    {.handled_access_fs = 0, .handled_access_net = 0, .scoped = kScopeAbstractSocketsAndSignals},
}};

constexpr std::uint64_t kMonitorNeeds = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                                        LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                        LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                                        LANDLOCK_ACCESS_FS_MAKE_FIFO | kTruncate | kIoctlDevice;

Status allow(const OwnedFd& ruleset, const std::string& path, std::uint64_t access) {
  const OwnedFd file{::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC)};
  landlock_path_beneath_attr rule{};
  rule.allowed_access = access;
  rule.parent_fd = file.get();
  if (!file || ::syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
    return fail_errno(ErrorKind::System, "Landlock: cannot allow {}", path);
  return {};
}

}  // namespace

int landlock_version() noexcept {
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return static_cast<int>(std::max(version, 0L));
}

Status fence_in(const std::string& executable) {
  const auto known = std::min(static_cast<std::size_t>(landlock_version()), kAdded.size());
  if (known == 0) return {};
  RulesetAttributes attributes{};
  for (const RulesetAttributes& added : std::span{kAdded}.first(known)) {
    attributes.handled_access_fs |= added.handled_access_fs;
    attributes.handled_access_net |= added.handled_access_net;
    attributes.scoped |= added.scoped;
  }
  // Fields that an older kernel does not know are zero, which it accepts.
  const OwnedFd ruleset{static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0))};
  if (!ruleset) return fail_errno(ErrorKind::System, "Landlock: cannot make a ruleset");
  if (auto allowed = allow(ruleset, "/", kMonitorNeeds & attributes.handled_access_fs); !allowed) return allowed;
  if (auto allowed = allow(ruleset, executable, LANDLOCK_ACCESS_FS_EXECUTE); !allowed) return allowed;
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
    return fail_errno(ErrorKind::System, "Landlock: cannot restrict the monitor");
  return {};
}

}  // namespace mayfly::jailer
