// Children that are made by fork, each of which does what its id says: none becomes a monitor.

#include "vmm/machine/brancher.h"

#include "tests/support/child_process.h"
#include "tests/support/repeats.h"
#include "tests/support/run_until.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kBefore = 0x5EED'0001;
constexpr std::uint64_t kAfter = 0x5EED'0002;
constexpr GuestAddress kWord{1 << 20};

/// Whether each region of guest memory is kept from processes that are forked ("dc" in its line VmFlags of smaps).
bool is_kept_from_children(const GuestMemory& memory) {
  std::ifstream smaps{"/proc/self/smaps"};
  std::size_t kept = 0;
  std::string line;
  for (bool within = false; std::getline(smaps, line);) {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2)
      within = std::ranges::any_of(memory.regions(), [&](const GuestMemory::Region& region) {
        return reinterpret_cast<std::uintptr_t>(region.mapping.bytes().data()) == start;
      });
    if (within && line.starts_with("VmFlags:") && line.find(" dc") != std::string::npos) ++kept;
  }
  return kept == memory.regions().size();
}

/// Ends a wait that nothing else ends, so that a test fails and does not hang.
class Deadline {
 public:
  explicit Deadline(EventLoop& loop)
      : thread_([this, &loop](const std::stop_token& stop) {
          std::mutex mutex;
          std::unique_lock lock{mutex};
          if (std::condition_variable_any{}.wait_for(lock, stop, std::chrono::seconds{20}, [] { return false; }))
            return;
          if (stop.stop_requested()) return;
          over_ = true;
          loop.wake();
        }) {}
  [[nodiscard]] bool over() const noexcept { return over_; }

 private:
  std::atomic<bool> over_{false};
  std::jthread thread_;
};

class ForkBrancherTest : public ::testing::Test {
 protected:
  ForkBrancherTest() {
    ::signal(SIGPIPE, SIG_IGN);
    loop_ = EventLoop::create().value();
    EXPECT_TRUE(memory_.store(kWord, kBefore));
  }
  ~ForkBrancherTest() override {
    brancher_.reset();
    loop_->close();
  }

  void start(std::chrono::milliseconds patience = std::chrono::seconds{15}, ThreadEntry enter_thread = {}) {
    brancher_ = ForkBrancher::start({.loop = *loop_,
                                     .children = alive_,
                                     .live = [](BranchOrder& order, std::size_t index,
                                                BranchReport report) { live(order, order.children[index].id, report); },
                                     .enter_thread = std::move(enter_thread),
                                     .patience = patience})
                    .value();
  }
  Status begin(const std::vector<std::string>& ids) {
    std::vector<BranchChild> children;
    for (const std::string& id : ids) children.push_back({.id = id, .api_socket = "/" + id});
    answer_.reset();
    return brancher_->begin({.memory = memory_, .snapshot = nullptr, .children = std::move(children)},
                            [this](std::vector<BranchedChild> all) { answer_ = std::move(all); });
  }
  /// What became of each, once all have told.
  std::vector<BranchedChild> answer() {
    const Deadline deadline{*loop_};
    testing::run_until(*loop_, [&] { return answer_ || deadline.over(); });
    EXPECT_TRUE(answer_) << "nobody was told what became of the children";
    return answer_.value_or(std::vector<BranchedChild>{});
  }
  void expect_alive(std::uint64_t count) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{20};
    while (alive_.value() != count && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    EXPECT_EQ(alive_.value(), count);
  }

  // NOLINTNEXTLINE(misc-non-private-member-variables-in-classes)
  GuestMemory memory_ = GuestMemory::create({.size_mib = 8}).value();
  std::unique_ptr<EventLoop> loop_;
  Gauge alive_;
  std::unique_ptr<ForkBrancher> brancher_;
  std::optional<std::vector<BranchedChild>> answer_;

 private:
  /// A child's whole life, which an alarm ends at the latest.
  [[noreturn]] static void live(const BranchOrder& order, const std::string& id, BranchReport& report) {
    ::alarm(60);
    if (id == "dies") ::_exit(7);
    if (id == "is-killed") ::raise(SIGKILL);
    if (id == "fails") report.failed("there is no TAP");
    if (id == "sleeps") ::pause();
    if (id == "talks-nonsense") {
      (void)!::write(report.fds()[1], "x", 1);
      ::_exit(0);
    }
    if (id == "looks") {
      if (!report.await_go()) report.failed("nobody has let go");
      if (order.memory.load<std::uint64_t>(kWord) != kBefore) report.failed("another word");
      is_kept_from_children(order.memory) ? report.up() : report.failed("its memory is its own children's, too");
    }
    if (id == "comes-up") {
      report.up();
      ::pause();
    }
    ::_exit(0);
  }
};

TEST_F(ForkBrancherTest, TellsOfEachChildInTheOrderOfTheRequest) {
  start();
  ASSERT_TRUE(begin({"dies", "comes-up", "is-killed", "fails"}));
  brancher_->let_go();
  const auto children = answer();
  ASSERT_EQ(children.size(), 4U);
  EXPECT_EQ(children[0].error, "the child ended while it was made (exit code 7)");
  EXPECT_EQ(children[1].error, "");
  EXPECT_EQ(children[1].id, "comes-up");
  EXPECT_EQ(children[1].api_socket, "/comes-up");
  EXPECT_EQ(children[2].error, "the child was ended while it was made (signal 9)");
  EXPECT_EQ(children[3].error, "there is no TAP");
  expect_alive(1);
  ASSERT_EQ(::kill(static_cast<pid_t>(children[1].pid), SIGKILL), 0);
  expect_alive(0);
}

TEST_F(ForkBrancherTest, AChildSeesMemoryAsItWasAndNoLaterWrite) {
  start();
  ASSERT_TRUE(begin({"looks", "looks", "looks"}));
  ASSERT_TRUE(memory_.store(kWord, kAfter));
  EXPECT_TRUE(is_kept_from_children(memory_));
  brancher_->let_go();
  for (const BranchedChild& child : answer()) EXPECT_EQ(child.error, "");
  expect_alive(0);
  EXPECT_EQ(memory_.load<std::uint64_t>(kWord), kAfter);
}

TEST_F(ForkBrancherTest, AChildThatIsSilentIsKilledAndTheOthersAreNot) {
  start(std::chrono::milliseconds{200});
  ASSERT_TRUE(begin({"sleeps", "comes-up"}));
  brancher_->let_go();
  const auto children = answer();
  ASSERT_EQ(children.size(), 2U);
  EXPECT_NE(children[0].error.find("did not come up in 0.2 s, and was killed"), std::string::npos) << children[0].error;
  EXPECT_EQ(children[1].error, "");
  expect_alive(1);
  // The next request has its own time, and hears of its own children alone.
  ASSERT_TRUE(begin({"fails"}));
  brancher_->let_go();
  const auto more = answer();
  ASSERT_EQ(more.size(), 1U);
  EXPECT_EQ(more[0].error, "there is no TAP");
  ::kill(static_cast<pid_t>(children[1].pid), SIGKILL);
  expect_alive(0);
}

TEST_F(ForkBrancherTest, AChildThatTellsNonsenseIsToldOfAndNotWaitedFor) {
  start();
  ASSERT_TRUE(begin({"talks-nonsense", "fails"}));
  brancher_->let_go();
  const auto children = answer();
  ASSERT_EQ(children.size(), 2U);
  EXPECT_EQ(children[0].error, "the child told nonsense of its start");
  expect_alive(0);
}

TEST(BranchReport, AParentThatEndsHasNotLetGo) {
  for (const bool lets_go : {true, false}) {
    testing::Pipe go;
    if (lets_go) (void)!::write(go.write.get(), "", 1);
    go.write.reset();
    EXPECT_EQ((BranchReport{std::move(go.read), OwnedFd{}}.await_go()), lets_go);
  }
}

/// Has the calling thread's pidfd_open(2) fail, as it does where another thread has taken the last descriptor.
void refuse_to_open_processes() {
  std::array<sock_filter, 4> filter{{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
                                     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EMFILE),
                                     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
  const sock_fprog program{.len = filter.size(), .filter = filter.data()};
  ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST_F(ForkBrancherTest, AChildThatIsSilentIsKilledAlsoWhereItsProcessCannotBeOpened) {
  start(std::chrono::milliseconds{200}, [](ThreadKind) { refuse_to_open_processes(); });
  ASSERT_TRUE(begin({"sleeps"}));
  brancher_->let_go();
  const auto children = answer();
  ASSERT_EQ(children.size(), 1U);
  EXPECT_NE(children[0].error.find("was killed"), std::string::npos) << children[0].error;
  siginfo_t end{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(children[0].pid), &end, WEXITED), 0);
  EXPECT_EQ(end.si_code, CLD_KILLED);
  EXPECT_EQ(end.si_status, SIGKILL) << "its alarm has ended it";
}

TEST_F(ForkBrancherTest, ACountOfPagesHoldsUpNoChild) {
  const GuestMemory large = GuestMemory::create({.size_mib = 256 << 10}).value();
  start();
  bool counted = false;
  brancher_->count_pages(large, [&](PageSharing) { counted = true; });
  ASSERT_TRUE(begin({"fails"}));
  brancher_->let_go();
  EXPECT_EQ(answer().size(), 1U);
  EXPECT_FALSE(counted) << "all of it came first";
  const Deadline deadline{*loop_};
  testing::run_until(*loop_, [&] { return counted || deadline.over(); });
  EXPECT_TRUE(counted);
}

TEST_F(ForkBrancherTest, PagesAreCountedInPartsOfAllRegions) {
  GuestMemory memory = GuestMemory::create({.size_mib = 4 << 10}).value();
  ASSERT_EQ(memory.regions().size(), 2U);
  const std::array touched{GuestAddress{0}, GuestAddress{(64 << 20) - 8}, GuestAddress{64 << 20},
                           GuestAddress{memory.regions().back().end() - 8}};
  for (const GuestAddress each : touched) ASSERT_TRUE(memory.store(each, kBefore));
  start();
  std::optional<PageSharing> counted;
  brancher_->count_pages(memory, [&](PageSharing sharing) { counted = sharing; });
  const Deadline deadline{*loop_};
  testing::run_until(*loop_, [&] { return counted || deadline.over(); });
  ASSERT_TRUE(counted);
  EXPECT_EQ(counted->own, touched.size() * kGuestPageSize);
  EXPECT_EQ(counted->shared, 0U);
}

/// The next request may come while the thread is still at what follows the answer, or hears that a child has ended.
TEST_F(ForkBrancherTest, RequestsThatFollowEachOtherAtOnceAreEachAnsweredForTheirOwnChildren) {
  start();
  for (int request = 0; request < testing::repeats(300, 60); ++request) {
    ASSERT_TRUE(begin({"fails", "fails"}));
    brancher_->let_go();
    const auto children = answer();
    ASSERT_EQ(children.size(), 2U) << request;
    for (const BranchedChild& child : children) ASSERT_EQ(child.error, "there is no TAP");
  }
  expect_alive(0);
}

/// All but some of the descriptors that this process may have.
class FewDescriptors {
 public:
  explicit FewDescriptors(std::size_t left) {
    if (::getrlimit(RLIMIT_NOFILE, &before_) != 0) std::abort();
    int highest = 0;
    for (const auto& each : std::filesystem::directory_iterator{"/proc/self/fd"})
      highest = std::max(highest, std::stoi(each.path().filename()));
    const rlimit few{.rlim_cur = static_cast<rlim_t>(highest) + 16, .rlim_max = before_.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &few) != 0) std::abort();
    for (OwnedFd next{::dup(0)}; next; next = OwnedFd{::dup(0)}) taken_.push_back(std::move(next));
    taken_.resize(taken_.size() - left);
  }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
  std::vector<OwnedFd> taken_;
};

TEST_F(ForkBrancherTest, WithoutDescriptorsNoChildIsMadeAndTheNextRequestHasOne) {
  start();
  {
    const FewDescriptors one{1};
    const auto begun = begin({"comes-up"});
    ASSERT_FALSE(begun);
    EXPECT_NE(begun.error().message.find("cannot make a pipe"), std::string::npos) << begun.error().message;
    EXPECT_TRUE(is_kept_from_children(memory_));
  }
  {
    // For the pipe that all wait at, and the first child's.
    const FewDescriptors five{5};
    ASSERT_TRUE(begin({"fails", "comes-up"}));
    brancher_->let_go();
    const auto children = answer();
    ASSERT_EQ(children.size(), 2U);
    EXPECT_EQ(children[0].error, "there is no TAP");
    EXPECT_NE(children[1].error.find("cannot make a pipe"), std::string::npos) << children[1].error;
    EXPECT_EQ(children[1].pid, 0);
  }
  ASSERT_TRUE(begin({"fails"}));
  brancher_->let_go();
  EXPECT_EQ(answer().size(), 1U);
  expect_alive(0);
}

/// Two pipes have a descriptor each in the end, and the process has none when it is made.
TEST_F(ForkBrancherTest, AChildWhoseProcessCannotBeOpenedAtOnceIsHeardOfAndReaped) {
  start();
  std::vector<BranchedChild> children;
  {
    const FewDescriptors four{4};
    ASSERT_TRUE(begin({"comes-up"}));
    brancher_->let_go();
    children = answer();
  }
  ASSERT_EQ(children.size(), 1U);
  EXPECT_EQ(children[0].error, "");
  expect_alive(1);
  ASSERT_EQ(::kill(static_cast<pid_t>(children[0].pid), SIGKILL), 0);
  expect_alive(0);
  EXPECT_EQ(::kill(static_cast<pid_t>(children[0].pid), 0), -1) << "it was waited for";
}

}  // namespace
}  // namespace mayfly
