#include "vmm/machine/worker.h"

#include <pthread.h>

#include <system_error>
#include <utility>

namespace mayfly {

Status ThreadWorker::begin(Job job, Done done) {
  try {
    thread_ = std::jthread{[this, job = std::move(job), done = std::move(done)](const std::stop_token& stop) mutable {
      ::pthread_setname_np(::pthread_self(), "worker");
      job(stop);
      loop_.post([this, done = std::move(done)]() mutable {
        thread_.join();
        done();
      });
    }};
  } catch (const std::system_error& error) {
    return fail(ErrorKind::System, "the host gives no more threads: {}", error.code().message());
  }
  return {};
}

}  // namespace mayfly
