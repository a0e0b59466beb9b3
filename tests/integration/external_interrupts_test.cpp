// The PIC's way into a vCPU, on this machine's /dev/kvm, without a guest: KVM_RUN returns before the first instruction.

#include "vmm/machine/external_interrupts.h"

#include "tests/integration/kvm_required.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu_snapshot.h"
#include "vmm/kvm/vm.h"

#include <array>
#include <cerrno>
#include <memory>
#include <stdexcept>
#include <string>

namespace mayfly::testing {
namespace {

template <typename T>
T must_do(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}
void must_do(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

/// A vCPU as after reset, its LAPIC in virtual-wire mode, that is never let run.
struct Machine {
  Machine() { vcpu.request_exit(true); }
  /// Enters KVM_RUN and leaves it at once.
  void enter() const { ASSERT_EQ(vcpu.run(), EINTR); }
  void let_interrupts_in(bool in) const {
    constexpr std::uint64_t kAlwaysOne = 0x2;
    constexpr std::uint64_t kInterruptFlag = 0x200;
    kvm_regs regs = must_do(vcpu.regs());
    regs.rflags = in ? kAlwaysOne | kInterruptFlag : kAlwaysOne;
    must_do(vcpu.set_regs(regs));
  }
  [[nodiscard]] VcpuState state() const { return must_do(save_vcpu(vcpu, {})); }
  /// Whether KVM has a vector already: it refuses another one.
  [[nodiscard]] bool has_vector() const {
    kvm_interrupt request{.irq = 0x99};
    const auto refused = vcpu.control(KVM_INTERRUPT, &request, "KVM_INTERRUPT");
    return !refused && refused.error().message.find("File exists") != std::string::npos;
  }

  Kvm kvm = must_do(Kvm::open());
  std::unique_ptr<Vm> vm = must_do(Vm::create(kvm));
  Vcpu vcpu = must_do(Vcpu::create(kvm.run_size(), *vm, 0));
};

class ExternalInterruptsTest : public KvmTest {
 protected:
  ExternalInterruptsTest() {
    pic_.store(0, 0x11);
    for (const std::uint8_t word : std::to_array<std::uint8_t>({0x20, 0x04, 0x01})) pic_.store(1, word);
  }

  DualPic pic_;
  ExternalInterrupts external_{pic_};
};

TEST_F(ExternalInterruptsTest, AVectorIsGivenWhenTheVcpuTakesInterruptsAndNotBefore) {
  const Machine machine;
  machine.let_interrupts_in(false);
  pic_.pulse_pin(4);
  external_.offer(machine.vcpu);
  machine.enter();
  external_.offer(machine.vcpu);
  EXPECT_TRUE(pic_.requests()) << "what is masked until then is not delivered";
  EXPECT_EQ(machine.vcpu.run_area().request_interrupt_window, 1);
  machine.let_interrupts_in(true);
  machine.enter();
  external_.offer(machine.vcpu);
  EXPECT_FALSE(pic_.requests());
  EXPECT_EQ(machine.vcpu.run_area().request_interrupt_window, 0);
  EXPECT_TRUE(machine.has_vector());
}

TEST_F(ExternalInterruptsTest, ARestoredVcpuThatHaltsIsAskedWhetherItIsReadyBeforeItSleeps) {
  const Machine machine;
  machine.let_interrupts_in(true);
  kvm_mp_state halted{.mp_state = KVM_MP_STATE_HALTED};
  must_do(machine.vcpu.control(KVM_SET_MP_STATE, &halted, "KVM_SET_MP_STATE"));
  machine.vcpu.request_exit(false);
  pic_.pulse_pin(4);
  external_.offer(machine.vcpu);
  ASSERT_EQ(machine.vcpu.run_area().immediate_exit, 1) << "it would sleep for ever";
  machine.enter();
  external_.offer(machine.vcpu);
  EXPECT_FALSE(pic_.requests());
  EXPECT_TRUE(machine.has_vector());
}

TEST_F(ExternalInterruptsTest, NothingIsGivenToAVcpuThatHasMaskedItsLine) {
  const Machine machine;
  machine.let_interrupts_in(true);
  constexpr std::size_t kLint0 = 0x350;
  kvm_lapic_state lapic = machine.state().lapic;
  lapic.regs[kLint0 + 2] = 1;  // masked
  must_do(machine.vcpu.control(KVM_SET_LAPIC, &lapic, "KVM_SET_LAPIC"));
  machine.enter();
  pic_.pulse_pin(4);
  external_.offer(machine.vcpu);
  machine.enter();
  external_.offer(machine.vcpu);
  EXPECT_TRUE(pic_.requests());
}

TEST_F(ExternalInterruptsTest, AVectorThatKvmHasNotDeliveredIsSavedAndRestored) {
  const Machine machine;
  machine.let_interrupts_in(true);
  machine.enter();
  EXPECT_EQ(external_.undelivered(machine.vcpu, machine.state()), std::nullopt);
  pic_.pulse_pin(4);
  external_.offer(machine.vcpu);
  machine.enter();  // a pause came in between: not an instruction ran
  const auto saved = external_.undelivered(machine.vcpu, machine.state());
  EXPECT_EQ(saved, 0x24);

  const Machine clone;
  clone.let_interrupts_in(true);
  DualPic pic;
  pic.restore(pic_.state());
  ExternalInterrupts external{pic};
  external.restore(clone.vcpu, saved);
  EXPECT_EQ(external.undelivered(clone.vcpu, clone.state()), 0x24) << "a snapshot before the clone ran";
  external.offer(clone.vcpu);
  EXPECT_TRUE(clone.has_vector());
  clone.enter();
  EXPECT_EQ(external.undelivered(clone.vcpu, clone.state()), 0x24);
}

}  // namespace
}  // namespace mayfly::testing
