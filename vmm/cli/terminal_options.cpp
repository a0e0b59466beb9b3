#include "vmm/cli/terminal_options.h"

#include "vmm/cli/choices.h"
#include "vmm/cli/common_options.h"
#include "vmm/cli/device_options.h"
#include "vmm/cli/override_options.h"

#include <map>

#include <CLI/CLI.hpp>

namespace mayfly {
namespace {

/// The API beside a terminal.
void add_api(CLI::App& app, std::string& api_sock, ApiLimits& limits) {
  CLI::Option* const socket =
      app.add_option("--api-sock", api_sock, "Serve the API on this Unix socket, too")->type_name("PATH");
  add_limits(Describer{app}, limits);
  // With a text of our own: CLI11 would add what each needs, and the lines would be too long.
  for (const char* limit : {"--http-api-max-payload-size", "--mmds-size-limit"})
    app.get_option(limit)->needs(socket)->option_text("BYTES");
}

void add_devices(CLI::App& app, RunFlags& flags) {
  app.add_option("-d,--drive", flags.drives,
                 "A drive: a file or block device. Parts:\n"
                 "root (has the root file system), ro (read-only),\n"
                 "direct (bypasses the host's page cache),\n"
                 "cache=writeback (the guest's flushes count),\n"
                 "discard (the guest may give space back),\n"
                 "base=IMAGE (only read; PATH is an overlay, made\n"
                 "if absent, and may be written overlay=PATH),\n"
                 "id=NAME (default: drive0, drive1 and so on).\n"
                 "Repeat it for more; double a comma in the path")
      ->option_text("PATH[,PART]...")
      ->allow_extra_args(false);
  app.add_option("-n,--net", flags.nets,
                 "A network interface on a TAP. Parts: mac=ADDRESS,\n"
                 "mtu=BYTES, id=NAME (default: eth0, eth1 and so on)")
      ->option_text("TAP[,PART]...")
      ->allow_extra_args(false);
  app.add_option("--channel", flags.channels,
                 "A Unix socket to which the guest's connections to\n"
                 "169.254.169.254:PORT go; or, with listen, at which\n"
                 "processes of the host get them. Repeat it for more")
      ->option_text("PORT=PATH[,listen]")
      ->allow_extra_args(false);
}

const std::map<std::string, HugePages>& huge_page_names() {
  static const std::map<std::string, HugePages> names = {
      {"none", HugePages::None}, {"transparent", HugePages::Transparent}, {"2M", HugePages::Explicit2M}};
  return names;
}

}  // namespace

void add_run(CLI::App& app, RunFlags& flags) {
  app.add_option("-k,--kernel", flags.source.kernel_image_path, "ELF vmlinux or bzImage")
      ->type_name("FILE")
      ->required();
  app.add_option("-i,--initrd", flags.initrd, "Initial RAM disk")->type_name("FILE");
  add_devices(app, flags);
  app.add_option("-a,--append", flags.append, "Words to add to the kernel command line");
  app.add_option("--boot-args", flags.boot_args,
                 "The kernel command line before --append (default:\n"
                 "what microVMs need, with a console on ttyS0)");
  app.add_option("-c,--cpus", flags.machine.vcpu_count, "vCPUs, 1 to 32")->capture_default_str();
  app.add_option("-m,--memory", flags.machine.mem_size_mib, "Memory in MiB")->capture_default_str();
  app.add_flag("--smt", flags.machine.smt, "Show pairs of vCPUs as threads of one core");
  app.add_option("--huge-pages", flags.machine.huge_pages,
                 "Size of the pages behind the memory (default:\ntransparent)")
      ->option_text("none|transparent|2M")
      ->transform(choice_of(huge_page_names(), "none, transparent or 2M"));
  add_api(app, flags.api_sock, flags.limits);
}

Result<std::vector<Command>> run_commands(RunFlags& flags) {
  auto drives = read_drive_options(flags.drives);
  if (!drives) return propagate(drives);
  auto nets = read_net_options(flags.nets);
  if (!nets) return propagate(nets);
  auto channels = read_channels(flags.channels);
  if (!channels) return propagate(channels);
  if (!channels->empty() && nets->empty()) nets->push_back({.iface_id = "eth0"});
  if (!flags.initrd.empty()) flags.source.initrd_path = flags.initrd;
  flags.source.boot_args = flags.append.empty() ? flags.boot_args : flags.boot_args + " " + flags.append;
  MmdsConfig serving;
  std::vector<Command> commands = {PutMachineConfig{flags.machine}, PutBootSource{flags.source}};
  for (DriveConfig& drive : *drives) commands.emplace_back(PutDrive{std::move(drive)});
  if (!channels->empty())
    for (const NetworkInterfaceConfig& net : *nets) serving.network_interfaces.push_back(net.iface_id);
  for (NetworkInterfaceConfig& net : *nets) commands.emplace_back(PutNetworkInterface{std::move(net)});
  if (!channels->empty()) commands.emplace_back(PutMmdsConfig{std::move(serving)});
  for (ChannelConfig& channel : *channels) commands.emplace_back(PutChannel{std::move(channel)});
  commands.emplace_back(StartInstance{});
  return commands;
}

void add_restore(CLI::App& app, RestoreFlags& flags) {
  app.add_option("-s,--state", flags.load.snapshot_path, "State file of the snapshot")
      ->option_text("FILE REQUIRED")
      ->required();
  CLI::Option* const memory =
      app.add_option("-m,--memory", flags.memory,
                     "Memory file of the snapshot; or its base, and\nrepeated for each diff over it, in their order")
          ->option_text("FILE")
          ->allow_extra_args(false);
  app.add_option("--page-server", flags.page_server, "Instead of --memory: Unix socket of a server\nthat gives pages")
      ->option_text("SOCKET")
      ->excludes(memory);
  app.add_option("-t,--tap", flags.taps,
                 "Another TAP for a network interface, and an\naddress if given; repeat it for more")
      ->option_text("ID=NAME[,mac=MAC]")
      ->allow_extra_args(false);
  app.add_option("-d,--drive", flags.drives, "Another image for a drive: a copy of the one\nit had, or an overlay")
      ->option_text("ID=PATH")
      ->allow_extra_args(false);
  app.add_option("--base", flags.bases,
                 "The image below the overlay that --drive gives\nthe same drive; repeated, layers in their order")
      ->option_text("ID=PATH")
      ->allow_extra_args(false);
  app.add_option("--channel", flags.channels, "Another socket for a channel; repeat it for more")
      ->option_text("PORT=PATH")
      ->allow_extra_args(false);
  app.add_flag("--trust-paths", flags.trust_paths,
               "Open all images, TAPs and channels' sockets of\nthe state file, not only images beside it");
  app.add_flag("--allow-changed-drives", flags.load.allow_changed_drives,
               "Restore even if an image was written to since");
  add_clock(app, flags.load.clock_realtime);
  app.add_flag("--revertible", flags.load.revertible, "Let mayfly revert take it back to the snapshot")
      ->option_text(" ")  // else what it excludes would be listed here
      ->excludes("--page-server");
  app.add_flag("--track-dirty-pages", flags.load.track_dirty_pages, "Track what changes, for small diffs");
  CLI::Option* const record = app.add_option("--record-working-set", flags.record_working_set,
                                             "Record which pages the guest touches until\nthe machine ends")
                                  ->option_text("FILE")
                                  ->excludes("--page-server")
                                  ->excludes("--revertible");
  app.add_option("--working-set", flags.working_set, "Read the recorded pages ahead of the guest")
      ->option_text("FILE")
      ->excludes("--page-server")
      ->excludes(record);
  app.add_option_function<HugePages>(
         "--huge-pages", [&flags](HugePages pages) { flags.load.huge_pages = pages; },
         "Size of the pages behind the memory (default: as\nin the snapshot)")
      ->option_text("none|transparent|2M")
      ->transform(choice_of(huge_page_names(), "none, transparent or 2M"));
  add_api(app, flags.api_sock, flags.limits);
}

Result<std::vector<Command>> restore_commands(RestoreFlags& flags) {
  if (flags.memory.empty() && flags.page_server.empty())
    return fail(ErrorKind::InvalidArgument, "mayfly restore needs --memory (or --page-server)");
  auto taps = read_tap_overrides(flags.taps);
  if (!taps) return propagate(taps);
  auto drives = read_drive_overrides(flags.drives, flags.bases);
  if (!drives) return propagate(drives);
  auto channels = read_channel_overrides(flags.channels);
  if (!channels) return propagate(channels);
  SnapshotLoadParams load = flags.load;
  load.backend = flags.memory.empty() ? MemoryBackend::Uffd : MemoryBackend::File;
  load.backend_paths = flags.memory.empty() ? std::vector{flags.page_server} : flags.memory;
  load.network_overrides = std::move(*taps);
  load.drive_overrides = std::move(*drives);
  load.channel_overrides = std::move(*channels);
  load.paths = flags.trust_paths ? StatePaths::Trusted : StatePaths::Named;
  load.resume_vm = true;
  if (!flags.record_working_set.empty())
    load.working_set = WorkingSetParams{.record = true, .path = flags.record_working_set};
  else if (!flags.working_set.empty())
    load.working_set = WorkingSetParams{.path = flags.working_set};
  return std::vector<Command>{LoadSnapshot{std::move(load)}};
}

}  // namespace mayfly
