#include "vmm/machine/configured_machine.h"

#include "vmm/base/try.h"
#include "vmm/boot/command_line.h"
#include "vmm/boot/image_file.h"

#include <utility>

namespace mayfly {
namespace {

Status check_machine(const MachineConfig& machine) {
  if (machine.vcpu_count < 1 || machine.vcpu_count > kMaximumVcpus)
    return fail(ErrorKind::InvalidArgument, "vcpu_count is {}; it must be from 1 to {}", machine.vcpu_count,
                kMaximumVcpus);
  if (machine.smt && machine.vcpu_count > 1 && machine.vcpu_count % 2 != 0)
    return fail(ErrorKind::InvalidArgument, "vcpu_count is {}; with smt it must be 1 or even", machine.vcpu_count);
  return GuestMemory::check({.size_mib = machine.mem_size_mib, .pages = machine.huge_pages});
}

}  // namespace

Status ConfiguredMachine::put(BootSource source) {
  TRY(check_command_line(source.boot_args.value_or(kDefaultBootArgs)));
  auto kernel = TRY(open_boot_file(source.kernel_image_path, BootFileRole::Kernel));
  OwnedFd initrd;
  if (source.initrd_path) initrd = TRY(open_boot_file(*source.initrd_path, BootFileRole::Initrd));
  kernel_ = std::move(kernel);
  initrd_ = std::move(initrd);
  config.boot_source = std::move(source);
  return {};
}

Status ConfiguredMachine::put(const MachineConfig& machine) {
  TRY(check_machine(machine));
  config.machine = machine;
  warn_of_template();
  machine_configured_ = true;
  return {};
}

Status ConfiguredMachine::patch(const MachineConfigPatch& patch) {
  MachineConfig machine = config.machine;
  machine.vcpu_count = patch.vcpu_count.value_or(machine.vcpu_count);
  machine.mem_size_mib = patch.mem_size_mib.value_or(machine.mem_size_mib);
  machine.smt = patch.smt.value_or(machine.smt);
  machine.track_dirty_pages = patch.track_dirty_pages.value_or(machine.track_dirty_pages);
  machine.huge_pages = patch.huge_pages.value_or(machine.huge_pages);
  machine.cpu_template = patch.cpu_template.value_or(machine.cpu_template);
  TRY(check_machine(machine));
  config.machine = machine;
  if (patch.cpu_template) warn_of_template();
  machine_configured_ = true;
  return {};
}

void ConfiguredMachine::warn_of_template() const {
  if (config.machine.cpu_template != CpuTemplate::None)
    log_.warning("cpu_template is deprecated: describe the CPU with PUT /cpu-config instead");
}

Status ConfiguredMachine::put(SerialConfig serial) {
  OwnedFd file;
  if (serial.serial_out_path) file = TRY(open_line_sink(*serial.serial_out_path, "serial_out_path"));
  if (serial.max_bytes) TRY(check_bound(file ? file.get() : console_.output_fd, serial.serial_out_path.value_or("")));
  serial_out_ = std::move(file);
  config.serial = std::move(serial);
  return {};
}

Status ConfiguredMachine::put(MmdsConfig mmds) {
  TRY(devices.check(mmds));
  config.mmds = std::move(mmds);
  return {};
}

Status ConfiguredMachine::put(ChannelConfig channel) {
  if (!config.mmds)
    return fail(ErrorKind::State,
                "channel {}: it is at the metadata service's address, and no network interface has that; send PUT "
                "/mmds/config first",
                channel.port);
  return channels.put(std::move(channel));
}

Status ConfiguredMachine::put(const LoggerConfig& logger) {
  TRY(log_.configure(logger));
  LoggerConfig& kept = config.logger ? *config.logger : config.logger.emplace();
  const auto take = [](auto& old, const auto& given) {
    if (given) old = given;
  };
  take(kept.log_path, logger.log_path);
  take(kept.level, logger.level);
  take(kept.show_level, logger.show_level);
  take(kept.show_log_origin, logger.show_log_origin);
  take(kept.module, logger.module);
  take(kept.max_bytes, logger.max_bytes);
  return {};
}

VmConfig ConfiguredMachine::all() const {
  VmConfig all = config;
  all.drives = devices.drives();
  all.network_interfaces = devices.network_interfaces();
  all.channels = channels.all();
  return all;
}

bool ConfiguredMachine::empty() const noexcept {
  return !config.boot_source && !config.cpu && !machine_configured_ && devices.empty();
}

ConsoleOptions ConfiguredMachine::console() const {
  ConsoleOptions console = console_;
  if (serial_out_) console.output_fd = serial_out_.get();
  if (config.serial) {
    console.rate_limiter = config.serial->rate_limiter;
    console.max_bytes = config.serial->max_bytes;
  }
  return console;
}

Result<BootPlan> ConfiguredMachine::plan_boot(PreparedVm&& prepared, bool boot_timer) const {
  const BootSource& source = *config.boot_source;
  auto command_line = compose_command_line(source.boot_args.value_or(kDefaultBootArgs), devices.kernel_arguments());
  if (!command_line) return propagate(command_line, "boot_args and what describes the devices");
  DevicePlans lent;
  TRY(devices.lend(lent));
  lent.mmds = config.mmds;
  lent.channels = channels.plans();
  return BootPlan{
      .prepared = std::move(prepared),
      .machine = config.machine,
      .cpu = config.cpu.value_or(CpuConfig{}),
      .kernel_fd = kernel_.get(),
      .kernel_path = source.kernel_image_path,
      .initrd_fd = initrd_ ? std::optional{initrd_.get()} : std::nullopt,
      .initrd_path = source.initrd_path.value_or(""),
      .command_line = std::move(*command_line),
      .devices = std::move(lent),
      .console = console(),
      .boot_timer = boot_timer,
  };
}

void ConfiguredMachine::take_over(const Snapshot& snapshot, ConfiguredDevices loaded, ConfiguredChannels its_channels) {
  devices = std::move(loaded);
  devices.started();
  config.machine = snapshot.machine;
  config.cpu = snapshot.cpu;
  config.boot_source = snapshot.boot_source;
  config.mmds = snapshot.mmds;
  channels = std::move(its_channels);
}

void ConfiguredMachine::describe(Snapshot& snapshot) const {
  snapshot.machine = config.machine;
  snapshot.cpu = config.cpu;
  snapshot.boot_source = config.boot_source;
  snapshot.mmds = config.mmds;
  snapshot.channels = channels.all();
  for (std::size_t i = 0; i < snapshot.drives.size(); ++i) snapshot.drives[i].config = devices.drives()[i];
  for (std::size_t i = 0; i < snapshot.network_interfaces.size(); ++i)
    snapshot.network_interfaces[i].config = devices.network_interfaces()[i];
}

}  // namespace mayfly
