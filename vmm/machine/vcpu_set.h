#pragma once

#include "vmm/base/metrics.h"
#include "vmm/base/mutex.h"
#include "vmm/base/standby_thread.h"
#include "vmm/base/thread_kind.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/dual_pic.h"
#include "vmm/devices/ioapic.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/machine/external_interrupts.h"
#include "vmm/machine/machine_end.h"

#include <pthread.h>

#include <functional>
#include <memory>
#include <thread>
#include <vector>

/// The threads of a machine's vCPUs: KVM_RUN, the exits that reach user space, and a clean kick.
///
///   VcpuSet vcpus{std::move(made), context};   // threads exist, parked
///   vcpus.resume();                          // all run
///   vcpus.request_pause();
///   ...                                      // on_parked(), and parked(): none is in KVM_RUN, no access is half done
///
/// All members but look_at_pic() are for one thread (the loop's); what the context names are called from the vCPU
/// threads.
namespace mayfly {

/// What vCPU threads meet when they leave KVM_RUN. Everything outlives the set.
struct VcpuContext {
  const Bus& ports;
  const Bus& mmio;
  Ioapic& ioapic;
  DualPic& pic;
  const GuestMemory& memory;
  VcpuMetrics& metrics;
  /// Told once by each vCPU that cannot go on, on that vCPU's thread.
  std::function<void(MachineEnd)> on_end;
  /// The last vCPU has parked; on its thread.
  std::function<void()> on_parked;
  /// By the threads of all vCPUs but the first; none may be given.
  ThreadEntry enter_thread{};
  /// By the first vCPU's thread, once it may run for the first time; none may be given.
  std::function<void(const Vcpu&)> before_first_run{};
};

class VcpuSet {
 public:
  /// A thread for vCPU `index`, which calls `first`, and then `enter_thread`, where there are any, at once: a filter of
  /// system calls takes about 0.1 ms to be compiled. Error: the host gives no more threads.
  [[nodiscard]] static Result<StandbyThread> start_thread(std::size_t index, const ThreadEntry& enter_thread,
                                                          const std::function<void()>& first = {});
  /// One thread a vCPU, parked; `first`, by start_thread(0), becomes that of the first. Error: as start_thread().
  [[nodiscard]] static Result<std::unique_ptr<VcpuSet>> create(std::vector<Vcpu> vcpus, VcpuContext context,
                                                               StandbyThread first);
  VcpuSet(const VcpuSet&) = delete;
  VcpuSet& operator=(const VcpuSet&) = delete;
  /// Stops and joins the threads.
  ~VcpuSet();

  void resume();
  /// Asks every vCPU to park. Serve the ring while waiting for that: a vCPU that resets a device parks only when the
  /// device's requests are back.
  void request_pause();
  /// Has vCPUs that are to run wait as if parked, or lets them go on; a pause and a resume meanwhile count as ever.
  void hold_back(bool on);
  [[nodiscard]] bool parked();

  /// The PIC's output has risen: brings the first vCPU out of KVM_RUN, also where it halts, to take the interrupt. Any
  /// thread, also under the locks of devices.
  void look_at_pic() noexcept;
  /// Of the first vCPU; while parked: ExternalInterrupts.
  [[nodiscard]] std::optional<std::uint8_t> undelivered_interrupt(const VcpuState& first) const noexcept {
    return external_.undelivered(vcpus_.front(), first);
  }
  [[nodiscard]] bool kvm_may_have_interrupt() const noexcept { return external_.kvm_may_have_one(); }
  void restore_undelivered_interrupt(std::optional<std::uint8_t> vector, bool kvm_has_it = false) noexcept {
    external_.restore(vcpus_.front(), vector, kvm_has_it);
  }

  [[nodiscard]] const std::vector<Vcpu>& vcpus() const noexcept { return vcpus_; }

 private:
  enum class Wanted { Park, Run, Stop };
  VcpuSet(std::vector<Vcpu> vcpus, VcpuContext context);
  void want(Wanted wanted);
  void kick_all() REQUIRES(mutex_);
  [[nodiscard]] bool may_run() const REQUIRES(mutex_) { return wanted_ == Wanted::Run && !held_back_; }
  void thread_main(std::size_t index);
  /// After a kick: whether the vCPU is to run on, because the kick was not for parking.
  [[nodiscard]] bool goes_on(const Vcpu& vcpu);
  /// Parks while that is wanted; false when the thread is to end.
  [[nodiscard]] bool wait_for_turn(const Vcpu& vcpu);
  /// Serves one exit; an end where the vCPU cannot go on.
  [[nodiscard]] std::optional<MachineEnd> serve_exit(const Vcpu& vcpu);
  void serve_port(kvm_run& run);
  void serve_mmio(kvm_run& run);

  std::vector<Vcpu> vcpus_;
  VcpuContext context_;
  ExternalInterrupts external_;  // of the first vCPU
  Mutex mutex_;
  ConditionVariable turn_;  // wanted_ or held_back_ changed
  Wanted wanted_ GUARDED_BY(mutex_) = Wanted::Park;
  bool held_back_ GUARDED_BY(mutex_) = false;
  std::size_t running_count_ GUARDED_BY(mutex_);  // threads that are not parked
  std::vector<std::thread> threads_;
  pthread_t first_{};  // constant once made: threads_ belong to who stops them
};

}  // namespace mayfly
