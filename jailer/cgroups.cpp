#include "jailer/cgroups.h"

#include "jailer/directories.h"
#include "jailer/small_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace mayfly::jailer {
namespace {

using std::string_view;

constexpr const char* kProcesses = "cgroup.procs";

bool contains(const std::vector<std::string>& all, string_view one) { return std::ranges::find(all, one) != all.end(); }

/// Spaces and the like in the kernel's lists of mounts are written as three octal digits.
std::string unescape(string_view text) {
  std::string plain;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\\' && text.size() - at > 3) {
      plain += static_cast<char>((text[at + 1] - '0') * 64 + (text[at + 2] - '0') * 8 + (text[at + 3] - '0'));
      at += 3;
    } else {
      plain += text[at];
    }
  }
  return plain;
}

/// A line of proc(5)'s mountinfo: ID PARENT DEVICE ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS
void add_hierarchy(string_view line, std::vector<Hierarchy>& hierarchies) {
  const std::vector<string_view> words = split(line, ' ');
  const auto dash = std::ranges::find(words, "-");
  if (words.size() < 6 || words.end() - dash < 4) return;
  Hierarchy hierarchy{.mount = unescape(words[4]), .controllers = {}, .root = unescape(words[3]), .home = {}};
  if (dash[1] == "cgroup2")
    hierarchy.version = 2;
  else if (dash[1] != "cgroup")
    return;
  else
    for (const string_view option : split(dash[3], ',')) hierarchy.controllers.emplace_back(option);
  const auto same = [&](const Hierarchy& other) {
    return other.version == hierarchy.version && other.controllers == hierarchy.controllers;
  };
  if (std::ranges::none_of(hierarchies, same)) hierarchies.push_back(std::move(hierarchy));
}

/// In a container without a cgroup namespace, paths begin at the host's root, but the mount with the container's
/// cgroup.
std::string path_below(string_view root, string_view path) {
  if (root == "/") return std::string{path};
  if (!path.starts_with(root)) return "";
  path.remove_prefix(root.size());
  if (path.empty()) return "/";
  return path.starts_with('/') ? std::string{path} : "";
}

/// A line of /proc/self/cgroup: NUMBER:CONTROLLERS:PATH
void note_home(string_view line, std::vector<Hierarchy>& hierarchies) {
  const std::vector<string_view> fields = split(line, ':');
  if (fields.size() < 3) return;
  const string_view path = line.substr(static_cast<std::size_t>(fields[2].data() - line.data()));
  const string_view controller = fields[1].substr(0, fields[1].find(','));
  for (Hierarchy& each : hierarchies)
    if (each.version == 2 ? controller.empty() : contains(each.controllers, controller))
      each.home = path_below(each.root, path);
}

Result<const Hierarchy*> find_version_2(const std::vector<Hierarchy>& hierarchies) {
  const auto found = std::ranges::find(hierarchies, 2, &Hierarchy::version);
  if (found == hierarchies.end())
    return fail(ErrorKind::NotFound,
                "--cgroup-version 2: no cgroup2 file system is mounted; mount one at /sys/fs/cgroup, or "
                "give --cgroup-version 1");
  return &*found;
}

Result<const Hierarchy*> find_controller(const std::vector<Hierarchy>& hierarchies, const std::string& controller) {
  const auto has = [&](const Hierarchy& each) { return contains(each.controllers, controller); };
  if (const auto found = std::ranges::find_if(hierarchies, has); found != hierarchies.end()) return &*found;
  return fail(ErrorKind::NotFound,
              "--cgroup {}.*: no hierarchy of version 1 with this controller is mounted; mount it, or give "
              "--cgroup-version 2",
              controller);
}

Result<OwnedFd> open_hierarchy(const Hierarchy& hierarchy) {
  OwnedFd directory{::open(hierarchy.mount.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!directory) return fail_errno(ErrorKind::System, "cannot open the cgroups at {}", hierarchy.mount);
  return directory;
}

Status check_empty(int group, const std::string& path) {
  const auto processes = read_at(group, kProcesses);
  if (!processes || processes->empty()) return {};
  return fail(ErrorKind::State, "the cgroup {} has processes already ({}); an id is for one machine", path,
              split(*processes, '\n').front());
}

/// 0 or the error number, as the next.
int try_make(int parent, const std::string& name) { return ::mkdirat(parent, name.c_str(), 0755) == 0 ? 0 : errno; }

/// One that exists has the limits of an earlier machine, and is replaced. EBUSY: it has processes, or cgroups in it.
int try_make_anew(int parent, const std::string& name) {
  const int refusal = try_make(parent, name);
  if (refusal != EEXIST) return refusal;
  if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0) return errno == EBUSY ? EBUSY : EEXIST;
  return try_make(parent, name);
}

/// A step further down, made where it is missing. The machine's own, the last, is the one with an undo.
Result<OwnedFd> step_into(int parent, const std::string& name, const std::string& path, Undo* undo) {
  errno = undo != nullptr ? try_make_anew(parent, name) : try_make(parent, name);
  const bool in_use = errno == EBUSY;
  if (errno == 0 && undo != nullptr)
    undo->add([in = duplicate(parent), name] { ::unlinkat(in.get(), name.c_str(), AT_REMOVEDIR); });
  else if (errno == EAGAIN || errno == ENOSPC)
    return fail_errno(
        ErrorKind::TooLarge,
        "no room for the cgroup {}: a limit of a cgroup above it, such as cgroup.max.descendants, is reached", path);
  else if (errno != 0 && errno != EEXIST && !in_use)
    return fail_errno(ErrorKind::System, "cannot make the cgroup {}", path);
  OwnedFd next{::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  if (!next) return fail_errno(ErrorKind::System, "cannot open the cgroup {}", path);
  if (!in_use) return next;
  if (auto empty = check_empty(next.get(), path); !empty) return propagate(empty);
  return fail(ErrorKind::State, "the cgroup {} is there already and has others in it; remove them", path);
}

/// A new cpuset has no CPUs and no memory nodes, and takes no process until it has.
Status inherit_cpuset(int parent, int child, const std::string& path) {
  for (const char* const file : {"cpuset.cpus", "cpuset.mems"}) {
    auto own = read_at(child, file);
    if (!own) return propagate(own, path);
    if (!own->empty()) continue;
    auto above = read_at(parent, file);
    if (!above) return propagate(above, path);
    if (auto written = write_at(child, file, *above); !written) return propagate(written, path);
  }
  return {};
}

Status enable(int directory, const std::string& path, const std::vector<std::string>& controllers) {
  std::string words;
  for (const std::string& each : controllers) words += (words.empty() ? "+" : " +") + each;
  if (words.empty()) return {};
  errno = try_write_at(directory, "cgroup.subtree_control", words);
  if (errno == 0) return {};
  if (errno == EBUSY)
    return fail(
        ErrorKind::State,
        "cannot switch on {} below the cgroup {}: it has processes of its own; choose a --parent-cgroup without", words,
        path);
  return fail_errno(ErrorKind::System, "cannot switch on {} below the cgroup {}", words, path);
}

/// Which controllers the settings need, each once; "cgroup" is not one.
std::vector<std::string> controllers_of(const std::vector<CgroupSetting>& settings) {
  std::vector<std::string> controllers;
  for (const CgroupSetting& setting : settings)
    if (std::string name = setting.controller(); name != "cgroup" && !contains(controllers, name))
      controllers.push_back(std::move(name));
  return controllers;
}

Status check_available(int root, const Hierarchy& hierarchy, const std::vector<std::string>& wanted) {
  auto available = read_at(root, "cgroup.controllers");
  if (!available) return propagate(available, hierarchy.mount);
  const std::vector<string_view> all = split(*available, ' ');
  for (const std::string& each : wanted)
    if (std::ranges::find(all, each) == all.end())
      return fail(ErrorKind::NotFound, "--cgroup {}.*: version 2 at {} has no such controller; it has: {}", each,
                  hierarchy.mount, available->empty() ? "none" : *available);
  return {};
}

/// One machine's cgroup in one hierarchy.
struct Plan {
  const Hierarchy* hierarchy;
  std::vector<CgroupSetting> settings;
};

Result<std::vector<Plan>> plan(const std::vector<Hierarchy>& hierarchies, const CgroupArguments& arguments) {
  std::vector<Plan> plans;
  for (const CgroupSetting& setting : arguments.settings) {
    auto hierarchy =
        arguments.version == 2 ? find_version_2(hierarchies) : find_controller(hierarchies, setting.controller());
    if (!hierarchy) return propagate(hierarchy);
    auto known = std::ranges::find(plans, *hierarchy, &Plan::hierarchy);
    if (known == plans.end()) known = plans.insert(plans.end(), Plan{.hierarchy = *hierarchy, .settings = {}});
    known->settings.push_back(setting);
  }
  return plans;
}

/// MOUNT/PARENT/ID, with everything on the way that it needs. What the parent consists of is shared, and stays.
Result<OwnedFd> make_path(const Plan& plan, const std::string& parent, const std::string& id, Undo& undo) {
  const Hierarchy& hierarchy = *plan.hierarchy;
  auto at = open_hierarchy(hierarchy);
  if (!at) return at;
  const bool is_2 = hierarchy.version == 2;
  const std::vector<std::string> controllers = is_2 ? controllers_of(plan.settings) : std::vector<std::string>{};
  if (is_2)
    if (auto good = check_available(at->get(), hierarchy, controllers); !good) return propagate(good);
  std::vector<string_view> names = names_of(parent);
  names.push_back(id);
  std::string path = hierarchy.mount;
  for (const string_view& name : names) {
    if (auto enabled = enable(at->get(), path, controllers); !enabled) return propagate(enabled);
    path.append("/").append(name);
    auto next = step_into(at->get(), std::string{name}, path, &name == &names.back() ? &undo : nullptr);
    if (!next) return next;
    if (contains(hierarchy.controllers, "cpuset"))
      if (auto inherited = inherit_cpuset(at->get(), next->get(), path); !inherited) return propagate(inherited);
    at = std::move(next);
  }
  return at;
}

Status write_settings(int group, const Plan& plan) {
  for (const CgroupSetting& setting : plan.settings)
    if (auto written = write_at(group, setting.file, setting.value); !written)
      return propagate(written, fmt::format("--cgroup {}={}", setting.file, setting.value));
  return {};
}

OwnedFd open_processes(int group) { return OwnedFd{::openat(group, kProcesses, O_WRONLY | O_CLOEXEC)}; }

OwnedFd open_home(const Hierarchy& hierarchy) {
  errno = ENOENT;
  if (hierarchy.home.empty()) return {};
  return OwnedFd{::open((hierarchy.mount + hierarchy.home + "/" + kProcesses).c_str(), O_WRONLY | O_CLOEXEC)};
}

/// 0 is the process that writes.
bool move_here(const OwnedFd& processes) { return ::write(processes.get(), "0", 1) == 1; }

/// Whether it has processes, and all of them are foreign.
bool has_only(const std::string& path, const IsForeign& is_foreign) {
  const auto processes = read_at(AT_FDCWD, path + "/" + kProcesses);
  if (!processes || processes->empty()) return false;
  return std::ranges::all_of(split(*processes, '\n'),
                             [&](string_view process) { return is_foreign(std::string{process}); });
}

}  // namespace

std::vector<Hierarchy> parse_hierarchies(string_view mountinfo, string_view own_cgroups) {
  std::vector<Hierarchy> hierarchies;
  for (const string_view line : split(mountinfo, '\n')) add_hierarchy(line, hierarchies);
  for (const string_view line : split(own_cgroups, '\n')) note_home(line, hierarchies);
  return hierarchies;
}

Result<std::vector<Hierarchy>> read_hierarchies() {
  auto mounts = read_at(AT_FDCWD, "/proc/self/mountinfo");
  if (!mounts) return propagate(mounts);
  auto own = read_at(AT_FDCWD, "/proc/self/cgroup");
  if (!own) return propagate(own);
  return parse_hierarchies(*mounts, *own);
}

Result<Cgroups> Cgroups::make(const std::vector<Hierarchy>& hierarchies, const CgroupArguments& arguments,
                              const std::string& exec_name, const std::string& id, Undo& undo) {
  Cgroups cgroups;
  const auto add = [&](const Hierarchy& hierarchy, int group, std::string path) -> Status {
    Group added{.path = std::move(path), .processes = open_processes(group), .home = {}};
    if (!added.processes) return fail_errno(ErrorKind::System, "cannot open {}/{}", added.path, kProcesses);
    added.home = open_home(hierarchy);
    if (!added.home)
      return fail_errno(ErrorKind::System,
                        "cannot open the cgroup of mayfly-jailer itself, {}, to come back to, below {}",
                        hierarchy.home.empty() ? "which is not mounted" : hierarchy.home, hierarchy.mount);
    cgroups.groups_.push_back(std::move(added));
    return {};
  };
  if (arguments.version == 2 && arguments.settings.empty() && arguments.parent) {
    auto hierarchy = find_version_2(hierarchies);
    if (!hierarchy) return propagate(hierarchy);
    const std::string path = (*hierarchy)->mount + "/" + *arguments.parent;
    const OwnedFd parent{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (!parent) return fail_errno(ErrorKind::NotFound, "--parent-cgroup {}: cannot open {}", *arguments.parent, path);
    if (auto added = add(**hierarchy, parent.get(), path); !added) return propagate(added);
    return cgroups;
  }
  auto plans = plan(hierarchies, arguments);
  if (!plans) return propagate(plans);
  const std::string parent = arguments.parent.value_or(exec_name);
  for (const Plan& each : *plans) {
    const std::string path = fmt::format("{}/{}/{}", each.hierarchy->mount, parent, id);
    auto group = make_path(each, parent, id, undo);
    if (!group) return propagate(group);
    if (auto good = check_empty(group->get(), path); !good) return propagate(good);
    if (auto written = write_settings(group->get(), each); !written) return propagate(written);
    if (auto added = add(*each.hierarchy, group->get(), path); !added) return propagate(added);
  }
  return cgroups;
}

Status Cgroups::attach(Undo& undo) {
  for (Group& group : groups_) {
    if (!move_here(group.processes))
      return fail_errno(ErrorKind::System, "cannot move the monitor into the cgroup {}", group.path);
    undo.add([home = std::move(group.home)] { (void)move_here(home); });
  }
  return {};
}

Status remove_cgroups(const std::vector<Hierarchy>& hierarchies, const std::string& parent, const std::string& id,
                      const IsForeign& is_foreign) {
  for (const Hierarchy& hierarchy : hierarchies) {
    const std::string path = fmt::format("{}/{}/{}", hierarchy.mount, parent, id);
    if (::rmdir(path.c_str()) == 0 || errno == ENOENT) continue;
    const int refusal = errno;
    if (has_only(path, is_foreign)) continue;
    if (refusal == EBUSY)
      return fail(ErrorKind::State,
                  "the cgroup {} has processes still (cgroup.procs lists them) or cgroups in it; end or remove them "
                  "first",
                  path);
    errno = refusal;
    return fail_errno(ErrorKind::System, "cannot remove the cgroup {}", path);
  }
  return {};
}

}  // namespace mayfly::jailer
