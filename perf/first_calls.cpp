// Which functions a program calls, in the order of their first calls: perf/order-functions.
//
//   nm PROGRAM | first_calls PROGRAM [ARGUMENT...] 3>NAMES
//
// Each function begins with a breakpoint until it is called. So the program, a position-independent one with symbols,
// runs but for its first calls at full speed, its threads and filters of system calls included.

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

constexpr std::uint8_t kBreakpoint = 0xcc;  // INT3
constexpr int kNames = 3;                   // file descriptor

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  _exit(1);
}

/// A function that was not called yet.
struct Function {
  std::vector<std::string> names;
  std::uint8_t first_byte = 0;
};
using Functions = std::map<std::uint64_t, Function>;  // by address in the program's file

/// From lines of nm(1): address, kind, name.
Functions read_symbols(std::istream& lines) {
  constexpr std::string_view kinds_of_code = "tTwWi";
  Functions functions;
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream words{line};
    std::uint64_t address = 0;
    char kind = 0;
    std::string name;
    if (words >> std::hex >> address >> kind >> name && kinds_of_code.find(kind) != std::string_view::npos) {
      functions[address].names.push_back(name);
    }
  }
  return functions;
}

pid_t start(char** command) {
  const pid_t child = fork();
  if (child < 0) give_up("fork");
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    execv(command[0], command);
    give_up(command[0]);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) give_up("waitpid");
  if (ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL) != 0) give_up("ptrace");
  return child;
}

/// A process that was started, with breakpoints in its memory.
class Program {
 public:
  Program(pid_t process, Functions functions) : process_{process}, functions_{std::move(functions)} {
    const std::string folder = "/proc/" + std::to_string(process);
    std::ifstream{folder + "/maps"} >> std::hex >> base_;
    memory_ = open((folder + "/mem").c_str(), O_RDWR | O_CLOEXEC);
    if (memory_ < 0) give_up("its memory");
    for (auto& [address, function] : functions_) {
      if (pread(memory_, &function.first_byte, 1, offset(address)) != 1) give_up("its memory");
    }
    for (const auto& [address, function] : functions_) write(address, kBreakpoint);
  }

  /// Returns when the process has ended.
  void run() {
    resume(process_, 0);
    int status = 0;
    for (;;) {
      const pid_t thread = waitpid(-1, &status, __WALL);
      if (thread < 0) give_up("waitpid");
      if (!WIFSTOPPED(status)) {
        if (thread == process_) return;
        continue;
      }
      const int signal = WSTOPSIG(status);
      const bool event = status >> 16 != 0;
      // A thread begins with SIGSTOP.
      const bool ours = event || signal == SIGSTOP || (signal == SIGTRAP && pass_breakpoint(thread));
      resume(thread, ours ? 0 : signal);
    }
  }

 private:
  /// Whether that is why the thread stopped. Two threads may have come to one breakpoint before it was taken away.
  bool pass_breakpoint(pid_t thread) {
    user_regs_struct registers{};
    if (ptrace(PTRACE_GETREGS, thread, nullptr, &registers) != 0) return false;
    const std::uint64_t address = registers.rip - 1 - base_;
    if (const auto found = functions_.find(address); found != functions_.end()) {
      write(address, found->second.first_byte);
      for (const std::string& name : found->second.names) dprintf(kNames, "%s\n", name.c_str());
      passed_.insert(address);
      functions_.erase(found);
    } else if (!passed_.contains(address)) {
      return false;
    }
    --registers.rip;
    return ptrace(PTRACE_SETREGS, thread, nullptr, &registers) == 0;
  }

  static void resume(pid_t thread, int signal) {
    // One that was killed meanwhile reports its end next.
    if (ptrace(PTRACE_CONT, thread, nullptr, signal) != 0 && errno != ESRCH) give_up("ptrace");
  }

  [[nodiscard]] off_t offset(std::uint64_t address) const { return static_cast<off_t>(base_ + address); }
  void write(std::uint64_t address, std::uint8_t byte) const {
    if (pwrite(memory_, &byte, 1, offset(address)) != 1) give_up("its memory");
  }

  pid_t process_;
  Functions functions_;
  std::set<std::uint64_t> passed_;
  std::uint64_t base_ = 0;
  int memory_ = -1;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: nm PROGRAM | first_calls PROGRAM [ARGUMENT...] 3>NAMES\n", stderr);
    return 2;
  }
  Functions functions = read_symbols(std::cin);
  if (functions.empty()) {
    std::fputs("first_calls: no symbols on standard input; was the program stripped?\n", stderr);
    return 1;
  }
  Program{start(argv + 1), std::move(functions)}.run();
  return 0;
}
