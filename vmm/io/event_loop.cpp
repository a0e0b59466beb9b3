#include "vmm/io/event_loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

namespace mayfly {

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  OwnedFd wake_fd{::eventfd(0, EFD_CLOEXEC)};
  if (!wake_fd) return fail_errno(ErrorKind::System, "cannot make an event descriptor");
  std::unique_ptr<EventLoop> loop{new EventLoop{std::move(wake_fd)}};
  if (auto made = loop->set_up(); !made) return propagate(made);
  loop->watch_wake_fd();
  return loop;
}

void EventLoop::post(Task task) {
  bool first = false;
  {
    const MutexLock lock{mutex_};
    if (closed_) return;
    first = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  if (first) wake();  // which serves all that follow, too
}

void EventLoop::wake() {
  const std::uint64_t one = 1;
  ensure(::write(wake_fd_.get(), &one, sizeof one) == sizeof one, "the loop's event descriptor refused a write");
}

void EventLoop::close() {
  std::vector<Task> dropped;
  {
    const MutexLock lock{mutex_};
    if (std::exchange(closed_, true)) return;
    dropped.swap(tasks_);
  }
  close_ring();
}

void EventLoop::stop() {
  post([this] { stopping_ = true; });
}

Status EventLoop::run() {
  while (!stopping_)
    if (auto served = run_once(); !served) return served;
  stopping_ = false;
  return {};
}

Status EventLoop::run_once() {
  ensure(!std::exchange(serving_, true), "a round of the event loop within another");
  call_hook();
  // It may have taken the wake-up for tasks that wait.
  if (auto served = wait(has_tasks() ? 0 : 1); !served) {
    serving_ = false;
    return served;
  }
  run_tasks();
  call_hook();
  serving_ = false;
  return {};
}

void EventLoop::set_before_wait(BeforeWait* hook) noexcept {
  ensure(hook == nullptr || before_wait_ == nullptr, "the loop has one hook");
  before_wait_ = hook;
}

bool EventLoop::has_tasks() {
  const MutexLock lock{mutex_};
  return !tasks_.empty();
}

void EventLoop::run_tasks() {
  {
    const MutexLock lock{mutex_};
    running_.swap(tasks_);
  }
  for (Task& task : running_) task();
  running_.clear();
}

void EventLoop::watch_wake_fd() {
  read(wake_fd_.get(), std::as_writable_bytes(std::span{&wake_count_, 1}), kNoOffset, wake_);
}

void EventLoop::WakeOperation::on_complete(int /*result*/, bool /*more*/) noexcept { loop_.watch_wake_fd(); }

}  // namespace mayfly
