// What happens to a jail while it is made: signals, the end of who waits for it, another jailer. The jailer is halted
// at a system call by tracing it, so that what comes then comes at no other time.

#include "tests/integration/jail.h"
#include "vmm/base/process_fd.h"

#include <poll.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <array>
#include <csignal>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

constexpr int kJailerCrashed = 256 + SIGSEGV;
constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

/// A jailer, traced from its first instruction on; killed and waited for when it goes out of scope.
class TracedJailer {
 public:
  explicit TracedJailer(std::vector<std::string> arguments, int ignored_signal = 0) {
    arguments.insert(arguments.begin(), jailer_binary());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      // Whoever runs the tests in the background of a script has them ignore SIGINT and SIGQUIT.
      for (const int signal : kSignals) ::signal(signal, signal == ignored_signal ? SIG_IGN : SIG_DFL);
      if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) ::execv(argv.front(), argv.data());
      ::_exit(127);
    }
    constexpr unsigned long kOptions = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK;
    const int status = wait_for(pid_);
    is_ended_ = !WIFSTOPPED(status);
    is_traced_ = !is_ended_ && ::ptrace(PTRACE_SETOPTIONS, pid_, nullptr, kOptions) == 0;
  }
  TracedJailer(const TracedJailer&) = delete;
  TracedJailer& operator=(const TracedJailer&) = delete;
  ~TracedJailer() {
    if (!is_ended_) kill_and_wait();
  }

  /// Not where containers forbid it.
  [[nodiscard]] bool is_traced() const { return is_traced_; }

  /// Lets it go on to where it asks for a system call.
  void halt_at(long number) {
    for (;;) {
      const int status = go_on_until_stop(PTRACE_SYSCALL);
      user_regs_struct registers{};
      if (WSTOPSIG(status) == (SIGTRAP | 0x80) && ::ptrace(PTRACE_GETREGS, pid_, nullptr, &registers) == 0 &&
          static_cast<long>(registers.orig_rax) == number)
        return;
    }
  }
  /// Lets it go on to where it has a child, which has not begun; the child's number.
  pid_t halt_with_child() {
    while (go_on_until_stop(PTRACE_CONT) >> 8 != (SIGTRAP | (PTRACE_EVENT_FORK << 8))) {
    }
    unsigned long child = 0;
    if (::ptrace(PTRACE_GETEVENTMSG, pid_, nullptr, &child) != 0) give_up("cannot tell the child's number");
    const int status = wait_for(static_cast<pid_t>(child));
    if (!WIFSTOPPED(status)) give_up("the child has ended");
    return static_cast<pid_t>(child);
  }
  void send(int signal) const { ::kill(pid_, signal); }
  void let_go() const { ::ptrace(PTRACE_DETACH, pid_, nullptr, nullptr); }
  void kill_and_wait() {
    ::kill(pid_, SIGKILL);
    (void)wait_for_end();
  }
  /// As ChildProcess::wait().
  int wait_for_end() {
    int status = wait_for(pid_);
    while (WIFSTOPPED(status)) status = wait_for(pid_);
    is_ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  }

 private:
  static int wait_for(pid_t pid) {
    int status = 0;
    if (::waitpid(pid, &status, __WALL) != pid) give_up("cannot wait for a process");
    return status;
  }
  int go_on_until_stop(__ptrace_request how) {
    if (::ptrace(how, pid_, nullptr, nullptr) != 0) give_up("cannot let the jailer go on");
    const int status = wait_for(pid_);
    if (WIFSTOPPED(status)) return status;
    is_ended_ = true;
    give_up("the jailer has ended before");
  }

  pid_t pid_ = -1;
  bool is_traced_ = false;
  bool is_ended_ = false;
};

class InterruptedJailerTest : public JailTest {
 protected:
  [[nodiscard]] std::vector<std::string> jail(const std::vector<std::string>& more = {}) const {
    return JailTest::jail("vm", guest_path("hello"), more);
  }
  [[nodiscard]] std::string folder() const { return JailTest::folder("hello", "vm"); }
};

TEST_F(InterruptedJailerTest, TakesEverythingBackUponASignalAndEndsByIt) {
  std::vector<std::string> flags;
  const auto cgroup = find_cgroup();
  if (cgroup) flags = cgroup->flags;
  for (const int signal : kSignals) {
    TracedJailer jailer{jail(flags)};
    if (!jailer.is_traced()) GTEST_SKIP() << "tracing is not permitted";
    jailer.halt_at(SYS_pivot_root);
    EXPECT_TRUE(fs::exists(folder() + "/root/hello"));
    jailer.send(signal);
    jailer.let_go();
    EXPECT_EQ(jailer.wait_for_end(), 256 + signal);
    EXPECT_FALSE(fs::exists(folder()));
    EXPECT_FALSE(cgroup && fs::exists(cgroup->parent + "/vm"));
  }
}

TEST_F(InterruptedJailerTest, GoesOnUponASignalThatItsCallerIgnores) {
  TracedJailer jailer{jail(), SIGHUP};
  if (!jailer.is_traced()) GTEST_SKIP() << "tracing is not permitted";
  jailer.halt_at(SYS_pivot_root);
  jailer.send(SIGHUP);
  jailer.let_go();
  EXPECT_EQ(jailer.wait_for_end(), kJailerCrashed);
  EXPECT_TRUE(fs::exists(folder() + "/root/hello"));
}

TEST_F(InterruptedJailerTest, TakesEverythingBackWhereNobodyWaitsForTheDaemonAnyMore) {
  TracedJailer jailer{jail({"--daemonize"})};
  if (!jailer.is_traced()) GTEST_SKIP() << "tracing is not permitted";
  const pid_t child = jailer.halt_with_child();
  const OwnedFd end_of_child = open_process(child);
  ASSERT_TRUE(end_of_child);
  jailer.kill_and_wait();
  ASSERT_EQ(::ptrace(PTRACE_DETACH, child, nullptr, nullptr), 0);
  pollfd ended{.fd = end_of_child.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&ended, 1, 60'000), 1);
  EXPECT_TRUE(fs::exists(base() + "/hello")) << "it has begun";
  EXPECT_FALSE(fs::exists(folder()));
}

TEST_F(InterruptedJailerTest, IsNotCleanedUpBehindItsBack) {
  TracedJailer jailer{jail()};
  if (!jailer.is_traced()) GTEST_SKIP() << "tracing is not permitted";
  jailer.halt_at(SYS_pivot_root);
  const Outcome refused = clean_up("vm", guest_path("hello"));
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.said.find("is at work on the jail vm"), std::string::npos) << refused.said;
  const Outcome second = run(jail());
  EXPECT_EQ(second.code, 1);
  EXPECT_NE(second.said.find("is at work on the jail vm"), std::string::npos) << second.said;
  jailer.let_go();
  EXPECT_EQ(jailer.wait_for_end(), kJailerCrashed);
  EXPECT_EQ(clean_up("vm", guest_path("hello")).code, 0);
}

}  // namespace
}  // namespace mayfly::testing
