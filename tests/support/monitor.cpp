#include "tests/support/monitor.h"

#include "tests/support/files.h"

#include <unistd.h>

#include <array>
#include <fstream>
#include <sstream>

namespace mayfly::testing {

std::string monitor_binary() { return build_file("mayfly"); }

std::string jailer_binary() { return build_file("mayfly-jailer"); }

std::string seccompile_binary() { return build_file("mayfly-seccompile"); }

std::string page_server_binary() { return build_file("tests/support/page_server"); }

std::string host_agent_binary() { return build_file("tests/host-agent/host_agent"); }

std::string guest_path(const std::string& name) { return build_file("guests/" + name); }

Monitor::Monitor(const std::vector<std::string>& arguments, const std::vector<std::string>& launcher) {
  const SocketWaiter waiter{socket_};
  std::vector<std::string> own = {"--api-sock", socket_};
  own.insert(own.end(), arguments.begin(), arguments.end());
  std::vector<std::string> all = launcher;
  if (launcher.empty() && MonitorJail::wanted()) {
    all = jail_.emplace(own).command();
  } else {
    all.push_back(monitor_binary());
    all.insert(all.end(), own.begin(), own.end());
  }
  process_.emplace(all, ChildProcess::Streams{.in = in_.read.get(), .out = out_.write.get(), .err = err_.write.get()});
  in_.read.reset();
  out_.write.reset();
  err_.write.reset();
  connection_ = waiter.connect(*process_, err_.read.get());
}

void Monitor::boot(const std::string& guest, const std::string& boot_args) {
  must_exchange(connection_.get(), "PUT", "/boot-source",
                R"({"kernel_image_path": ")" + guest_path(guest) + R"(", "boot_args": ")" + boot_args + "\"}");
  must_exchange(connection_.get(), "PUT", "/actions", R"({"action_type": "InstanceStart"})");
}

const std::string& Monitor::console_until(const std::string& wanted) {
  read_until(out_.read.get(), console_, wanted);
  return console_;
}

const std::string& Monitor::log_until(const std::string& wanted) {
  read_until(err_.read.get(), log_, wanted);
  return log_;
}

std::size_t Monitor::console_more() {
  std::array<char, 4096> piece{};
  const ssize_t count = ::read(out_.read.get(), piece.data(), piece.size());
  if (count <= 0) give_up("the console ended; it said:\n" + console_);
  console_.append(piece.data(), static_cast<std::size_t>(count));
  return console_.size();
}

void Monitor::type(const std::string& keys) {
  if (::write(in_.write.get(), keys.data(), keys.size()) != static_cast<ssize_t>(keys.size()))
    give_up("cannot type " + keys);
}

int Monitor::wait() { return process_->wait(); }

}  // namespace mayfly::testing
