#include "tests/support/host_agent.h"

#include "vmm/base/process_fd.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace mayfly::testing {
namespace {

/// None where the process has ended.
std::vector<pid_t> child_ids(pid_t process) {
  std::vector<pid_t> all;
  std::error_code gone;
  std::filesystem::directory_iterator task{"/proc/" + std::to_string(process) + "/task", gone};
  for (; !gone && task != std::filesystem::directory_iterator{}; task.increment(gone)) {
    std::ifstream children{task->path() / "children"};
    for (pid_t pid = 0; children >> pid;) all.push_back(pid);
  }
  return all;
}

}  // namespace

HostAgent::HostAgent(const Options& options) {
  std::filesystem::create_directory(directory());
  std::vector<std::string> words = {options.agent, "--mayfly",  options.monitor, "--kernel", options.guest,
                                    "--directory", directory(), "--port",        "0"};
  words.insert(words.end(), options.more.begin(), options.more.end());
  process_.emplace(words, ChildProcess::Streams{.in = -1, .out = out_.write.get(), .err = STDERR_FILENO});
  out_.write.reset();
}

void HostAgent::await_ready() {
  const std::string before = "ready: http://127.0.0.1:";
  std::string said;
  read_until(out_.read.get(), said, "\n");
  if (!said.starts_with(before)) give_up("the host agent said " + said);
  port_ = static_cast<std::uint16_t>(std::stoul(said.substr(before.size())));
}

OwnedFd HostAgent::ask(const std::string& method, const std::string& path, const std::string& body) const {
  OwnedFd connection{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port_);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    give_up("cannot connect to the host agent");
  const std::string text = method + " " + path +
                           " HTTP/1.1\r\nHost: here\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
                           body;
  if (::send(connection.get(), text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
    give_up("cannot send to the host agent");
  return connection;
}

std::string HostAgent::answer_on(const OwnedFd& connection) {
  std::string text;
  read_until(connection.get(), text, "");
  return text;
}

bool HostAgent::is_agent(pid_t process) const {
  std::error_code gone;
  return std::filesystem::equivalent("/proc/" + std::to_string(process) + "/exe",
                                     "/proc/" + std::to_string(process_->pid()) + "/exe", gone);
}

std::vector<pid_t> HostAgent::monitor_ids() const {
  std::vector<pid_t> all = child_ids(process_->pid());
  std::erase_if(all, [this](pid_t pid) { return is_agent(pid); });
  return all;
}

std::vector<pid_t> HostAgent::branch_ids() const {
  std::vector<pid_t> all;
  for (const pid_t child : child_ids(process_->pid()))
    for (const pid_t branch : child_ids(child)) all.push_back(branch);
  return all;
}

std::vector<OwnedFd> HostAgent::monitors() const {
  std::vector<pid_t> ids = monitor_ids();
  for (const pid_t branch : branch_ids()) ids.push_back(branch);
  std::vector<OwnedFd> all;
  for (const pid_t pid : ids) {
    OwnedFd pidfd = open_process(pid);
    if (pidfd) all.push_back(std::move(pidfd));
  }
  return all;
}

std::optional<pid_t> HostAgent::first_process() const {
  for (const pid_t child : child_ids(process_->pid()))
    if (is_agent(child)) return child;
  return std::nullopt;
}

std::string HostAgent::work_directory() const {
  for (const auto& entry : std::filesystem::directory_iterator{directory()}) return entry.path().string();
  give_up("the host agent has no directory for its files");
}

bool HostAgent::has_files() const { return !std::filesystem::is_empty(directory()); }

}  // namespace mayfly::testing
