#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdlib>

namespace mayfly::testing {

/// While it lives the host gives no more threads: the next one's stack would be larger than any address space, so that
/// pthread_create(3) says EAGAIN, as it does where a limit of processes is reached.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    pthread_attr_t attributes;
    if (::pthread_getattr_default_np(&before_) != 0 || ::pthread_attr_init(&attributes) != 0 ||
        ::pthread_attr_setstacksize(&attributes, std::size_t{1} << 47) != 0 ||
        ::pthread_setattr_default_np(&attributes) != 0)
      std::abort();
    ::pthread_attr_destroy(&attributes);
  }
  NoMoreThreads(const NoMoreThreads&) = delete;
  NoMoreThreads& operator=(const NoMoreThreads&) = delete;
  ~NoMoreThreads() {
    ::pthread_setattr_default_np(&before_);
    ::pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_{};
};

}  // namespace mayfly::testing
