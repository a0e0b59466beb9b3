#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

/// A mutex whose rules clang checks (-Wthread-safety): which lock a member is under, and which a function needs.
///
///   void step() REQUIRES(mutex_);
///   Mutex mutex_;
///   int count_ GUARDED_BY(mutex_) = 0;
///   ...
///   const MutexLock lock{mutex_};
///   while (count_ == 0) changed_.wait(mutex_);   // a loop: clang does not look into a predicate
///
/// Constructors and destructors are not checked. Other compilers see nothing of it.
#if defined(__clang__)
#define MAYFLY_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define MAYFLY_THREAD_SAFETY(attribute)
#endif

/// Of a member: read and written only under the mutex.
#define GUARDED_BY(mutex) MAYFLY_THREAD_SAFETY(guarded_by(mutex))
/// Of a function: the caller has the mutex, and keeps it.
#define REQUIRES(...) MAYFLY_THREAD_SAFETY(requires_capability(__VA_ARGS__))
/// Of a function: the caller does not have the mutex, which the function takes.
#define EXCLUDES(...) MAYFLY_THREAD_SAFETY(locks_excluded(__VA_ARGS__))
/// Of a function: locks or unlocks the mutex.
#define ACQUIRE(...) MAYFLY_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define RELEASE(...) MAYFLY_THREAD_SAFETY(release_capability(__VA_ARGS__))
/// Of a function: the caller has the mutex, by another name or by the contract of who calls it.
#define ASSERT_CAPABILITY(...) MAYFLY_THREAD_SAFETY(assert_capability(__VA_ARGS__))
/// Of a function: returns a reference to the mutex.
#define RETURN_CAPABILITY(mutex) MAYFLY_THREAD_SAFETY(lock_returned(mutex))

namespace mayfly {

class MAYFLY_THREAD_SAFETY(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class ConditionVariable;
  std::mutex mutex_;
};

/// Has a mutex while it lives, but between unlock() and lock().
class MAYFLY_THREAD_SAFETY(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() RELEASE() {
    if (locked_) mutex_.unlock();
  }
  void unlock() RELEASE() {
    locked_ = false;
    mutex_.unlock();
  }
  void lock() ACQUIRE() {
    mutex_.lock();
    locked_ = true;
  }

 private:
  Mutex& mutex_;
  bool locked_ = true;
};

class ConditionVariable {
 public:
  /// Unlocks the mutex, and locks it again when notified, or spuriously.
  void wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock lock{mutex.mutex_, std::adopt_lock};
    condition_.wait(lock);
    (void)lock.release();
  }
  /// The same, at the latest then; false: that time has come.
  [[nodiscard]] bool wait_until(Mutex& mutex, std::chrono::steady_clock::time_point when) REQUIRES(mutex) {
    std::unique_lock lock{mutex.mutex_, std::adopt_lock};
    const bool early = condition_.wait_until(lock, when) == std::cv_status::no_timeout;
    (void)lock.release();
    return early;
  }
  void notify_one() noexcept { condition_.notify_one(); }
  void notify_all() noexcept { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace mayfly
