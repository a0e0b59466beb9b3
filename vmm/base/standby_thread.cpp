#include "vmm/base/standby_thread.h"

#include <system_error>
#include <utility>

namespace mayfly {

Result<StandbyThread> StandbyThread::start(std::function<void()> ready) {
  auto turn = std::make_shared<Turn>();
  try {
    std::thread thread{[turn, ready = std::move(ready)] {
      ready();
      turn->given.acquire();
      if (turn->work) turn->work();
    }};
    return StandbyThread{std::move(turn), std::move(thread)};
  } catch (const std::system_error& failure) {
    return fail(ErrorKind::System, "cannot start a vCPU's thread: {}; raise the limit of processes or threads",
                failure.what());
  }
}

StandbyThread::~StandbyThread() {
  if (thread_.joinable()) std::move(*this).begin({}).join();
}

std::thread StandbyThread::begin(std::function<void()> work) && {
  turn_->work = std::move(work);
  turn_->given.release();
  return std::move(thread_);
}

}  // namespace mayfly
