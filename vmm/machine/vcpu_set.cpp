#include "vmm/machine/vcpu_set.h"

#include "vmm/machine/vcpu_report.h"

#include <pthread.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// Interrupts KVM_RUN. No real-time signal: those are refused where the user has too many pending (RLIMIT_SIGPENDING),
/// and a vCPU that is not kicked may never leave KVM_RUN. Of others at most one waits, which is enough. Who sends this
/// one from outside has vCPUs leave KVM_RUN and enter it again.
constexpr int kKickSignal = SIGURG;

/// KVM_RUN returns EINTR when a signal is delivered: a handler must exist, and need not do anything.
void install_kick_handler() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  ::sigemptyset(&action.sa_mask);
  ensure(::sigaction(kKickSignal, &action, nullptr) == 0, "the kick signal's handler was refused");
}

void kick(pthread_t thread) noexcept { (void)::pthread_kill(thread, kKickSignal); }

}  // namespace

VcpuSet::VcpuSet(std::vector<Vcpu> vcpus, VcpuContext context)
    : vcpus_(std::move(vcpus)), context_(std::move(context)), external_(context_.pic), running_count_(vcpus_.size()) {
  install_kick_handler();
  threads_.reserve(vcpus_.size());
}

Result<StandbyThread> VcpuSet::start_thread(std::size_t index, const ThreadEntry& enter_thread,
                                            const std::function<void()>& first) {
  return StandbyThread::start([index, enter_thread, first] {
    sigset_t kick;
    ::sigemptyset(&kick);
    ::sigaddset(&kick, kKickSignal);
    ::pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);  // whoever started the monitor may have left it blocked
    ::pthread_setname_np(::pthread_self(), fmt::format("vcpu-{}", index).c_str());
    if (first) first();
    if (enter_thread) enter_thread(ThreadKind::Vcpu);
  });
}

Result<std::unique_ptr<VcpuSet>> VcpuSet::create(std::vector<Vcpu> vcpus, VcpuContext context, StandbyThread first) {
  std::unique_ptr<VcpuSet> set{new VcpuSet{std::move(vcpus), std::move(context)}};
  const auto begin = [&set = *set](StandbyThread thread) {
    const std::size_t index = set.threads_.size();
    set.threads_.push_back(std::move(thread).begin([&set, index] { set.thread_main(index); }));
    if (index == 0) set.first_ = set.threads_.front().native_handle();
  };
  begin(std::move(first));
  while (set->threads_.size() < set->vcpus_.size()) {
    auto thread = start_thread(set->threads_.size(), set->context_.enter_thread);
    if (!thread) return propagate(thread);
    begin(std::move(*thread));
  }
  return set;
}

VcpuSet::~VcpuSet() {
  want(Wanted::Stop);
  for (std::thread& thread : threads_) thread.join();
}

void VcpuSet::want(Wanted wanted) {
  const MutexLock lock{mutex_};
  wanted_ = wanted;
  turn_.notify_all();
  if (wanted != Wanted::Run) kick_all();
}

void VcpuSet::kick_all() {
  // The flag serves a vCPU that is about to enter KVM_RUN, the signal one that is in it.
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    vcpus_[i].request_exit(true);
    if (i < threads_.size()) kick(threads_[i].native_handle());
  }
}

void VcpuSet::resume() { want(Wanted::Run); }

void VcpuSet::request_pause() { want(Wanted::Park); }

void VcpuSet::hold_back(bool on) {
  const MutexLock lock{mutex_};
  held_back_ = on;
  turn_.notify_all();
  if (on) kick_all();
}

void VcpuSet::look_at_pic() noexcept {
  if (::pthread_equal(first_, ::pthread_self()) != 0) return;  // it looks before its next KVM_RUN
  const MutexLock lock{mutex_};
  if (wanted_ != Wanted::Run) return;  // a resumed vCPU does, too
  // A vCPU that was kicked and has not left yet will look.
  if (vcpus_.front().exit_requested()) return;
  vcpus_.front().request_exit(true);
  kick(first_);
}

bool VcpuSet::goes_on(const Vcpu& vcpu) {
  const MutexLock lock{mutex_};
  if (!may_run()) return false;
  vcpu.request_exit(false);  // under the lock: as in wait_for_turn()
  return true;
}

bool VcpuSet::parked() {
  const MutexLock lock{mutex_};
  return running_count_ == 0;
}

bool VcpuSet::wait_for_turn(const Vcpu& vcpu) {
  const MutexLock lock{mutex_};
  if (--running_count_ == 0) context_.on_parked();
  while (wanted_ != Wanted::Stop && !may_run()) turn_.wait(mutex_);
  ++running_count_;
  vcpu.request_exit(false);  // under the lock: a kick that comes next sets it again
  return wanted_ == Wanted::Run;
}

void VcpuSet::thread_main(std::size_t index) {
  const Vcpu& vcpu = vcpus_[index];
  bool can_run = true;
  while (wait_for_turn(vcpu)) {
    if (!can_run) {  // ended: nothing to do but wait for the machine's stop
      const MutexLock lock{mutex_};
      while (wanted_ == Wanted::Run) turn_.wait(mutex_);
      continue;
    }
    if (index == 0 && context_.before_first_run) std::exchange(context_.before_first_run, nullptr)(vcpu);
    while (can_run) {
      if (index == 0) external_.offer(vcpu);
      const int error_number = vcpu.run();
      // Only KVM_RUN's return is a point to park at: it completes the access that the exit before asked for.
      if (error_number == EINTR) {
        context_.metrics.exit_kicked.add();
        if (goes_on(vcpu)) continue;
        break;
      }
      if (error_number == EAGAIN) continue;
      auto end = error_number == 0
                     ? serve_exit(vcpu)
                     : MachineEnd{EndReason::VcpuFailure, describe_run_failure(vcpu, context_.memory, error_number)};
      if (!end) continue;
      can_run = false;
      if (is_failure(end->reason)) context_.metrics.failures.add();
      context_.on_end(std::move(*end));
    }
  }
}

std::optional<MachineEnd> VcpuSet::serve_exit(const Vcpu& vcpu) {
  kvm_run& run = vcpu.run_area();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      serve_port(run);
      return std::nullopt;
    case KVM_EXIT_MMIO:
      serve_mmio(run);
      return std::nullopt;
    case KVM_EXIT_IOAPIC_EOI:
      context_.ioapic.end_of_interrupt(run.eoi.vector);
      return std::nullopt;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
      return std::nullopt;
    case KVM_EXIT_SHUTDOWN:
      return MachineEnd{EndReason::TripleFault, describe_triple_fault(vcpu)};
    case KVM_EXIT_INTERNAL_ERROR:
      return MachineEnd{EndReason::InternalError, describe_internal_error(vcpu, context_.memory)};
    case KVM_EXIT_FAIL_ENTRY:
      return MachineEnd{EndReason::FailedEntry, describe_failed_entry(vcpu, context_.memory)};
    default:
      return MachineEnd{EndReason::VcpuFailure, describe_unexpected_exit(vcpu, context_.memory)};
  }
}

void VcpuSet::serve_port(kvm_run& run) {
  const auto& io = run.io;
  std::byte* data = reinterpret_cast<std::byte*>(&run) + io.data_offset;
  const bool out = io.direction == KVM_EXIT_IO_OUT;
  (out ? context_.metrics.exit_io_out : context_.metrics.exit_io_in).add();
  // A string instruction brings several accesses of one port at once; KVM bounds them to a page.
  for (std::uint32_t i = 0; i < io.count; ++i, data += io.size) {
    const std::span access{data, io.size};
    const bool served = out ? context_.ports.write(io.port, access) : context_.ports.read(io.port, access);
    if (!served) context_.metrics.unclaimed_accesses.add();
  }
}

void VcpuSet::serve_mmio(kvm_run& run) {
  auto& mmio = run.mmio;
  const std::span access{reinterpret_cast<std::byte*>(mmio.data), std::min<std::size_t>(mmio.len, sizeof mmio.data)};
  (mmio.is_write != 0 ? context_.metrics.exit_mmio_write : context_.metrics.exit_mmio_read).add();
  const bool served =
      mmio.is_write != 0 ? context_.mmio.write(mmio.phys_addr, access) : context_.mmio.read(mmio.phys_addr, access);
  if (!served) context_.metrics.unclaimed_accesses.add();
}

}  // namespace mayfly
