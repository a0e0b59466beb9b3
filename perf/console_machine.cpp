#include "perf/console_machine.h"

#include <unistd.h>

#include <iterator>
#include <utility>

namespace mayfly::perf {

using namespace testing;

namespace {

std::vector<std::string> command_of(const std::string& monitor, const std::string& socket,
                                    const std::vector<std::string>& more) {
  std::vector<std::string> command{monitor, "--api-sock", socket, "--level", "Error"};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

}  // namespace

std::string in_quotes(const std::string& text) { return '"' + text + '"'; }

ConsoleMachine::ConsoleMachine(const std::string& monitor, const std::string& socket,
                               const std::vector<std::string>& more)
    : waiter_(socket),
      process_(command_of(monitor, socket, more),
               {.in = keys_.read.get(), .out = console_.write.get(), .err = STDERR_FILENO}),
      connection_(waiter_.connect()) {
  send("GET", "/", "");
}

void ConsoleMachine::send(const std::string& method, const std::string& path, const std::string& body) const {
  must_exchange(connection_.get(), method, path, body);
}

std::string ConsoleMachine::get(const std::string& path) const {
  return exchange(connection_.get(), "GET", path, "").body;
}

void ConsoleMachine::type(char key) const {
  if (::write(keys_.write.get(), &key, 1) != 1) give_up("cannot type");
}

void ConsoleMachine::await(const std::string& text) {
  std::string shown = std::move(rest_);
  read_until(console_.read.get(), shown, text);
  rest_ = shown.substr(shown.find(text) + text.size());
}

std::string ConsoleMachine::rest_of_line() {
  std::string shown = std::move(rest_);
  read_until(console_.read.get(), shown, "\n");
  rest_ = shown.substr(shown.find('\n'));
  return shown.substr(0, shown.find('\n'));
}

}  // namespace mayfly::perf
