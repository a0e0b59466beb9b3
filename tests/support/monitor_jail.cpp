#include "tests/support/monitor_jail.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

void must(int result, const std::string& what) {
  if (result != 0) give_up("cannot " + what + ": " + std::strerror(errno));
}

/// What is in every jail: the tests' own files.
std::array<std::string, 2> shown_directories() {
  return {fs::temp_directory_path().string(), fs::path{guest_path("")}.parent_path().string()};
}

void show(const std::string& directory, const std::string& root) {
  fs::create_directories(root + directory);
  must(::mount(directory.c_str(), (root + directory).c_str(), nullptr, MS_BIND | MS_REC, nullptr), "show " + directory);
}

/// Takes --id and its value out.
std::string take_id(std::vector<std::string>& arguments) {
  const auto flag = std::ranges::find(arguments, "--id");
  if (flag == arguments.end() || flag + 1 == arguments.end()) return "anonymous-instance";
  std::string id = *(flag + 1);
  arguments.erase(flag, flag + 2);
  return id;
}

}  // namespace

void enter_own_mounts() {
  static const bool done = [] {
    must(::unshare(CLONE_NEWNS), "make a mount namespace (jails need root)");
    must(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "make mounts private");
    return true;
  }();
  (void)done;
}

bool MonitorJail::wanted() {
  const char* const wish = std::getenv("MAYFLY_TEST_JAILS");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return wish != nullptr && std::string{wish} == "1";
}

std::string wrapped_monitor_binary() {
  if (!MonitorJail::wanted()) return monitor_binary();
  enter_own_mounts();
  const auto [temporary, guests] = shown_directories();
  // NOLINTBEGIN(concurrency-mt-unsafe): before the program and this process's threads
  ::setenv("MAYFLY", monitor_binary().c_str(), 1);
  ::setenv("SHOWN", (temporary + " " + guests).c_str(), 1);
  // NOLINTEND(concurrency-mt-unsafe)
  return project_file("tests/lab/jailed_mayfly");
}

MonitorJail::MonitorJail(std::vector<std::string> arguments) {
  static int number = 0;
  enter_own_mounts();
  // Not among the temporary files, which are shown in it.
  base_ = "/run/mayfly-test-" + std::to_string(::getpid()) + "-" + std::to_string(++number);
  const std::string id = take_id(arguments);
  const std::string root = base_ + "/" + fs::path{monitor_binary()}.filename().string() + "/" + id + "/root";
  fs::create_directory(base_);
  must(::mount("jail", base_.c_str(), "tmpfs", 0, "mode=755"), "mount a file system for a jail");
  for (const std::string& directory : shown_directories()) show(directory, root);
  command_ = {jailer_binary(),
              "--id",
              id,
              "--exec-file",
              monitor_binary(),
              "--uid",
              "0",
              "--gid",
              "0",
              "--chroot-base-dir",
              base_,
              "--allow-userfaultfd",
              "--"};
  command_.insert(command_.end(), arguments.begin(), arguments.end());
}

MonitorJail::~MonitorJail() {
  ::umount2(base_.c_str(), MNT_DETACH);
  ::rmdir(base_.c_str());
}

}  // namespace mayfly::testing
