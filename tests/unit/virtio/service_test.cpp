#include "virtio/service.h"

#include "vmm/base/owned_fd.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::unique_ptr<EventLoop> make_loop() {
  auto loop = EventLoop::create();
  EXPECT_TRUE(loop) << loop.error().message;
  return std::move(*loop);
}

/// What an event descriptor has counted since the last time.
std::uint64_t count_of(const OwnedFd& event) {
  std::uint64_t count = 0;
  return ::read(event.get(), &count, sizeof count) == sizeof count ? count : 0;
}

/// So many reads of it complete at once, on every kernel.
OwnedFd make_tokens(unsigned count) { return OwnedFd{::eventfd(count, EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK)}; }

OwnedFd make_event() { return OwnedFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}; }

/// Reads of a token: operations on a registered file.
class TokenReader {
 public:
  TokenReader(EventLoop& loop, int tokens) : loop_(loop), file_(*loop.register_file(tokens)) {}
  void read(Operation& operation) { loop_.readv(file_, vectors_, EventLoop::kNoOffset, operation); }

 private:
  EventLoop& loop_;
  RegisteredFile file_;
  std::uint64_t token_ = 0;
  std::array<iovec, 1> vectors_{iovec{.iov_base = &token_, .iov_len = sizeof token_}};
};

TEST(VirtioService, AnInterruptWaitsForWhatCompletesAtOnceAndComesOnce) {
  const auto loop = make_loop();
  VirtioService service{*loop};
  const OwnedFd event = make_event();
  const OwnedFd tokens = make_tokens(2);
  TokenReader reader{*loop, tokens.get()};
  std::uint64_t early = 1;
  std::uint64_t late = 0;
  CallbackOperation second{[&](int, bool) {
    early = count_of(event);
    EXPECT_FALSE(service.interrupt(event.get()));
  }};
  CallbackOperation first{[&](int, bool) {
    EXPECT_TRUE(service.interrupt(event.get()));
    reader.read(second);
  }};
  CallbackOperation woken{[&](int, bool) {
    late = count_of(event);
    loop->stop();
  }};
  reader.read(first);
  loop->poll_once(event.get(), POLLIN, woken);
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(early, 0U);
  EXPECT_EQ(late, 1U);
}

TEST(VirtioService, AnInterruptDoesNotWaitForWorkThatNeverEnds) {
  const auto loop = make_loop();
  VirtioService service{*loop};
  const OwnedFd event = make_event();
  constexpr int kMany = 1000;
  const OwnedFd tokens = make_tokens(kMany);
  TokenReader reader{*loop, tokens.get()};
  int completions = 0;
  bool woke = false;
  CallbackOperation again{[&](int, bool) {
    if (++completions == 1) service.interrupt(event.get());
    if (woke || completions == kMany) return loop->stop();
    reader.read(again);
  }};
  CallbackOperation woken{[&](int, bool) { woke = true; }};
  reader.read(again);
  loop->poll_once(event.get(), POLLIN, woken);
  ASSERT_TRUE(loop->run());
  EXPECT_TRUE(woke);
  EXPECT_LT(completions, 20);
}

/// Interrupts when it is polled, or when it is polled no more.
struct InterruptingClient final : VirtioService::Client {
  InterruptingClient(VirtioService& its_service, int event_fd, bool at_end)
      : service(its_service), event(event_fd), late(at_end) {}
  void publish_used() noexcept override {}
  Found busy_poll() noexcept override {
    if (late || std::exchange(interrupted, true)) return Found::Nothing;
    service.interrupt(event);
    return Found::Little;
  }
  void stop_polling() noexcept override {
    if (late) service.interrupt(event);
  }
  VirtioService& service;
  int event;
  bool late;
  bool interrupted = false;
};

TEST(VirtioService, SendsTheInterruptsOfThosePolled) {
  for (const bool at_end : {false, true}) {
    const auto loop = make_loop();
    VirtioService service{*loop};
    const OwnedFd event = make_event();
    InterruptingClient client{service, event.get(), at_end};
    std::uint64_t count = 0;
    CallbackOperation woken{[&](int, bool) {
      count = count_of(event);
      loop->stop();
    }};
    loop->poll_once(event.get(), POLLIN, woken);
    service.poll_before_wait(client);
    ASSERT_TRUE(loop->run());
    EXPECT_EQ(count, 1U) << at_end;
  }
}

/// Counts what it is asked for.
struct CountingClient final : VirtioService::Client {
  void publish_used() noexcept override { ++publications; }
  Found busy_poll() noexcept override {
    ++polls;
    return Found::Nothing;
  }
  void stop_polling() noexcept override { ++stops; }
  int publications = 0;
  int polls = 0;
  int stops = 0;
};

TEST(VirtioService, PublishesOnceARoundHoweverOftenThatWasAskedFor) {
  const auto loop = make_loop();
  VirtioService service{*loop};
  CountingClient client;
  loop->post([&] {
    service.publish_later(client);
    service.publish_later(client);
    EXPECT_EQ(client.publications, 0);
  });
  ASSERT_TRUE(loop->run_once());
  EXPECT_EQ(client.publications, 1);
  loop->post([] {});
  ASSERT_TRUE(loop->run_once());
  EXPECT_EQ(client.publications, 1);
}

TEST(VirtioService, PollsEverMoreRarelyWhileThatIsInVain) {
  const auto loop = make_loop();
  VirtioService service{*loop};
  CountingClient client;
  int polled_rounds = 0;
  for (int round = 0; round < 64; ++round) {
    const int before = client.polls;
    loop->post([&] { service.poll_before_wait(client); });
    ASSERT_TRUE(loop->run_once());
    EXPECT_EQ(client.stops, round + 1) << "a client that waits to be polled is told when nobody does";
    polled_rounds += client.polls > before ? 1 : 0;
  }
  EXPECT_GE(polled_rounds, 1);
  EXPECT_LE(polled_rounds, 7);
}

TEST(VirtioService, SendsNoInterruptThatWasTakenBack) {
  const auto loop = make_loop();
  VirtioService service{*loop};
  const OwnedFd taken_back{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  const OwnedFd sent{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  loop->post([&] {
    EXPECT_TRUE(service.interrupt(taken_back.get()));
    EXPECT_TRUE(service.interrupt(sent.get()));
    service.forget_interrupt(taken_back.get());
  });
  ASSERT_TRUE(loop->run_once());
  loop->post([] {});
  ASSERT_TRUE(loop->run_once());
  eventfd_t count = 0;
  EXPECT_EQ(::eventfd_read(sent.get(), &count), 0);
  EXPECT_NE(::eventfd_read(taken_back.get(), &count), 0);
}

TEST(VirtioService, ForgetsAClientThatGoes) {
  const auto loop = make_loop();
  VirtioService service{*loop};
  CountingClient client;
  loop->post([&] {
    service.publish_later(client);
    service.poll_before_wait(client);
    service.forget(client);
  });
  ASSERT_TRUE(loop->run_once());
  EXPECT_EQ(client.publications + client.polls + client.stops, 0);
}

}  // namespace
}  // namespace mayfly
