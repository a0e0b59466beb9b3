#include "vmm/cli/options.h"

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

Invocation parse(std::vector<const char*> words) {
  words.insert(words.begin(), "mayfly");
  return parse_options(static_cast<int>(words.size()), words.data());
}

int exit_code(std::vector<const char*> words) {
  const Invocation invocation = parse(std::move(words));
  const auto* exit = std::get_if<ExitNow>(&invocation);
  return exit == nullptr ? -1 : exit->code;
}

TEST(Options, ServesTheApiWithTheFlagsThatClientsSend) {
  const auto options = std::get<ServeOptions>(parse({"--api-sock",
                                                     "/tmp/a.sock",
                                                     "--id",
                                                     "vm-7",
                                                     "--log-path",
                                                     "/tmp/log",
                                                     "--level",
                                                     "Warning",
                                                     "--show-level",
                                                     "--show-log-origin",
                                                     "--metrics-path",
                                                     "/tmp/m",
                                                     "--boot-timer",
                                                     "--no-seccomp",
                                                     "--start-time-us",
                                                     "12",
                                                     "--start-time-cpu-us",
                                                     "3",
                                                     "--parent-cpu-time-us",
                                                     "4",
                                                     "--http-api-max-payload-size",
                                                     "1000",
                                                     "--mmds-size-limit",
                                                     "2000",
                                                     "--metadata",
                                                     "/tmp/m.json"}));
  EXPECT_EQ(options.api_sock, "/tmp/a.sock");
  EXPECT_EQ(options.common.id, "vm-7");
  EXPECT_EQ(options.common.logger.log_path, "/tmp/log");
  EXPECT_EQ(options.common.logger.level, LogLevel::Warning);
  EXPECT_EQ(options.common.logger.show_log_origin, true);
  EXPECT_EQ(options.common.metrics_path, "/tmp/m");
  EXPECT_TRUE(options.common.boot_timer);
  EXPECT_TRUE(options.common.filters.off);
  EXPECT_EQ(options.common.start.wall_us, 12U);
  EXPECT_EQ(options.common.start.cpu_us, 3U);
  EXPECT_EQ(options.common.start.parent_cpu_us, 4U);
  EXPECT_EQ(options.limits.max_payload, 1000U);
  EXPECT_EQ(options.limits.metadata_limit, 2000U);
  EXPECT_EQ(options.metadata_file, "/tmp/m.json");
}

TEST(Options, TakesEachOptionOfTheDialectsProgram) {
  const std::vector<std::pair<const char*, const char*>> options = {{"--api-sock", "/s"},
                                                                    {"--id", "vm"},
                                                                    {"--seccomp-filter", "/f"},
                                                                    {"--no-seccomp", nullptr},
                                                                    {"--start-time-us", "1"},
                                                                    {"--start-time-cpu-us", "1"},
                                                                    {"--parent-cpu-time-us", "1"},
                                                                    {"--config-file", "/c"},
                                                                    {"--metadata", "/m"},
                                                                    {"--no-api", nullptr},
                                                                    {"--log-path", "/l"},
                                                                    {"--level", "Info"},
                                                                    {"--module", "api"},
                                                                    {"--show-level", nullptr},
                                                                    {"--show-log-origin", nullptr},
                                                                    {"--metrics-path", "/p"},
                                                                    {"--boot-timer", nullptr},
                                                                    {"--http-api-max-payload-size", "1"},
                                                                    {"--mmds-size-limit", "1"},
                                                                    {"--enable-pci", nullptr}};
  for (const auto& [name, value] : options) {
    std::vector<const char*> words = {name};
    if (value != nullptr) words.push_back(value);
    if (name == std::string_view{"--no-api"}) words.insert(words.end(), {"--config-file", "/c"});
    EXPECT_EQ(exit_code(words), -1) << name;
  }
  EXPECT_EQ(std::get<ServeOptions>(parse({"--module", "vmm::api"})).common.logger.module, "vmm::api");
  EXPECT_EQ(std::get<RunOptions>(parse({"run", "-k", "k", "--module", "api"})).common.logger.module, "api");
  EXPECT_FALSE(std::get<ServeOptions>(parse({})).common.logger.module);
  EXPECT_TRUE(std::get<ServeOptions>(parse({"--enable-pci"})).enable_pci);
  EXPECT_FALSE(std::get<ServeOptions>(parse({})).enable_pci);
}

TEST(Options, WithoutAnyFlagTheApiIsServedWhereTheHelpSays) {
  const auto options = std::get<ServeOptions>(parse({}));
  EXPECT_EQ(options.api_sock, "/run/mayfly.socket");
  EXPECT_FALSE(options.metadata_file || options.limits.metadata_limit);
}

TEST(Options, AConfigurationFileCanDoWithoutAnApi) {
  const auto options = std::get<ServeOptions>(parse({"--no-api", "--config-file", "vm.json"}));
  EXPECT_FALSE(options.api_sock);
  EXPECT_EQ(options.config_file, "vm.json");
  EXPECT_EQ(exit_code({"--no-api"}), kExitBadArguments);
}

TEST(Options, RunMakesTheCommandsThatConfigureAndStart) {
  const auto options =
      std::get<RunOptions>(parse({"run", "--kernel", "vmlinux", "--initrd", "initrd", "--cpus", "4", "--memory", "512",
                                  "--append", "quiet", "--huge-pages", "transparent"}));
  ASSERT_EQ(options.commands.size(), 3U);
  const auto& machine = std::get<PutMachineConfig>(options.commands[0]).value;
  EXPECT_EQ(machine.vcpu_count, 4U);
  EXPECT_EQ(machine.mem_size_mib, 512U);
  EXPECT_EQ(machine.huge_pages, HugePages::Transparent);
  const auto& source = std::get<PutBootSource>(options.commands[1]).value;
  EXPECT_EQ(source.kernel_image_path, "vmlinux");
  EXPECT_EQ(source.initrd_path, "initrd");
  EXPECT_TRUE(source.boot_args->starts_with("console=ttyS0 ")) << *source.boot_args;
  EXPECT_TRUE(source.boot_args->ends_with(" quiet")) << *source.boot_args;
  EXPECT_EQ(source.boot_args->find("nomodule"), std::string::npos) << "drivers of a distribution's kernel are modules";
  EXPECT_TRUE(std::holds_alternative<StartInstance>(options.commands[2]));
  EXPECT_EQ(options.common.logger.level, LogLevel::Warning);
}

TEST(Options, RunAddsDrivesAndNetworksBeforeTheStart) {
  const auto options = std::get<RunOptions>(parse({"run", "--drive", "rootfs.ext4,root", "-k", "vmlinux", "--net",
                                                   "tap0", "--drive", "[data],ro", "-n", "tap1,mtu=1400", "-d", "c"}));
  ASSERT_EQ(options.commands.size(), 8U);
  EXPECT_FALSE(std::get<PutBootSource>(options.commands[1]).value.initrd_path);
  EXPECT_TRUE(std::get<PutDrive>(options.commands[2]).value.is_root_device);
  EXPECT_EQ(std::get<PutDrive>(options.commands[3]).value.path_on_host, "[data]");
  EXPECT_EQ(std::get<PutDrive>(options.commands[4]).value.drive_id, "drive2");
  EXPECT_EQ(std::get<PutNetworkInterface>(options.commands[5]).value.host_dev_name, "tap0");
  EXPECT_EQ(std::get<PutNetworkInterface>(options.commands[6]).value.mtu, 1400);
  EXPECT_TRUE(std::holds_alternative<StartInstance>(options.commands[7]));
}

TEST(Options, RunRefusesBadDrivesAndNetworks) {
  EXPECT_EQ(exit_code({"run", "-k", "k", "--drive"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"run", "-k", "k", "--drive", "a,what"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"run", "-k", "k", "--drive", "a", "b"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"run", "-k", "k", "--net", "tap0,mac=no"}), kExitBadArguments);
}

TEST(Options, TheApiBesideATerminalHasTheLimitsThatItsRefusalsName) {
  const auto run = std::get<RunOptions>(parse({"run", "-k", "k", "--api-sock", "/a", "--mmds-size-limit", "70000"}));
  EXPECT_EQ(run.limits.max_payload, 51'200U);
  EXPECT_EQ(run.limits.metadata(), 70'000U);
  const auto restore = std::get<RunOptions>(
      parse({"restore", "-s", "s", "-m", "m", "--api-sock", "/a", "--http-api-max-payload-size", "60000"}));
  EXPECT_EQ(restore.limits.max_payload, 60'000U);
  EXPECT_EQ(restore.limits.metadata(), 60'000U);
  EXPECT_EQ(exit_code({"run", "-k", "k", "--mmds-size-limit", "70000"}), kExitBadArguments);  // without an API
}

/// What standard error has of a command line that is refused.
std::string said(std::vector<const char*> words) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(exit_code(std::move(words)), kExitBadArguments);
  return ::testing::internal::GetCapturedStderr();
}

TEST(Options, RunGivesAMachineWithChannelsTheAddressThatTheyAreAt) {
  const auto commands =
      std::get<RunOptions>(parse({"run", "-k", "k", "--channel", "1024=/a", "--channel", "1025=/b,listen"})).commands;
  ASSERT_EQ(commands.size(), 7U);
  EXPECT_EQ(std::get<PutNetworkInterface>(commands[2]).value.iface_id, "eth0");
  EXPECT_EQ(std::get<PutNetworkInterface>(commands[2]).value.host_dev_name, "");
  EXPECT_EQ(std::get<PutMmdsConfig>(commands[3]).value.network_interfaces, std::vector<std::string>{"eth0"});
  EXPECT_EQ(std::get<PutChannel>(commands[4]).value, (ChannelConfig{.port = 1024, .uds_path = "/a"}));
  EXPECT_EQ(std::get<PutChannel>(commands[5]).value, (ChannelConfig{.port = 1025, .uds_path = "/b", .listen = true}));
  const auto with_nets =
      std::get<RunOptions>(parse({"run", "-k", "k", "-n", "tap0", "-n", "tap1,id=b", "--channel", "1024=/a"})).commands;
  ASSERT_EQ(with_nets.size(), 7U);
  EXPECT_EQ(std::get<PutMmdsConfig>(with_nets[4]).value.network_interfaces, (std::vector<std::string>{"eth0", "b"}));
}

TEST(Options, RunNeedsAKernel) { EXPECT_EQ(said({"run"}), "mayfly: --kernel is required; see mayfly run --help\n"); }

TEST(Options, ARefusalNamesTheWordAndTheHelpThatListsWhatThereIs) {
  EXPECT_EQ(said({"start"}), "mayfly: there is no command or argument start; see mayfly --help\n");
  EXPECT_EQ(said({"--sock", "/a"}), "mayfly: there is no option --sock; see mayfly --help\n");
  EXPECT_EQ(said({"run", "-k", "k", "--cpu", "2"}), "mayfly: there is no option --cpu; see mayfly run --help\n");
  EXPECT_EQ(said({"run", "k"}), "mayfly: --kernel is required; see mayfly run --help\n");
  EXPECT_EQ(said({"snapshot", "create"}), "mayfly: machine is required; see mayfly snapshot create --help\n");
}

TEST(Options, ARefusedChoiceListsTheOthers) {
  EXPECT_EQ(said({"run", "-k", "k", "--huge-pages", "1G"}),
            "mayfly: --huge-pages: must be none, transparent or 2M, not 1G; see mayfly run --help\n");
  EXPECT_EQ(said({"restore", "-s", "s", "-m", "m", "--huge-pages", "1"}),
            "mayfly: --huge-pages: must be none, transparent or 2M, not 1; see mayfly restore --help\n");
  EXPECT_EQ(said({"--level", "Loud"}),
            "mayfly: --level: must be Off, Error, Warning, Info, Debug or Trace, not Loud; see mayfly --help\n");
  EXPECT_EQ(said({"completion", "tcsh"}),
            "mayfly: shell: must be bash, fish or zsh, not tcsh; see mayfly completion --help\n");
}

TEST(Options, AChoiceIsTakenInAnyCase) {
  const auto run = std::get<RunOptions>(parse({"run", "-k", "k", "--huge-pages", "2m", "--level", "TRACE"}));
  EXPECT_EQ(std::get<PutMachineConfig>(run.commands[0]).value.huge_pages, HugePages::Explicit2M);
  EXPECT_EQ(run.common.logger.level, LogLevel::Trace);
}

TEST(Options, WhatStandsBeforeASubcommandIsRefusedAndSaysWhereItBelongs) {
  EXPECT_EQ(said({"--log-path", "/tmp/log", "run", "--kernel", "k"}),
            "mayfly: --log-path has no effect before 'run'; write mayfly run --log-path ...\n");
  EXPECT_EQ(said({"--boot-timer", "run", "--kernel", "k"}),
            "mayfly: --boot-timer has no effect before 'run'; write mayfly run --boot-timer ...\n");
  EXPECT_EQ(said({"--config-file", "vm.json", "run", "--kernel", "k"}),
            "mayfly: --config-file is not for mayfly run; see mayfly run --help\n");
  EXPECT_EQ(said({"--id", "vm-7", "doctor"}), "mayfly: --id is not for mayfly doctor; see mayfly doctor --help\n");
}

TEST(Options, RestoreMakesTheCommandThatLoadsAndGoesOn) {
  const auto options = std::get<RunOptions>(parse({"restore",
                                                   "--state",
                                                   "s",
                                                   "--memory",
                                                   "m",
                                                   "--tap",
                                                   "eth0=tap7",
                                                   "-d",
                                                   "rootfs=[copy]",
                                                   "--tap",
                                                   "e1=t",
                                                   "--no-clock-realtime",
                                                   "--track-dirty-pages",
                                                   "--allow-changed-drives",
                                                   "--huge-pages",
                                                   "2M",
                                                   "--api-sock",
                                                   "/a",
                                                   "--id",
                                                   "clone-3"}));
  ASSERT_EQ(options.commands.size(), 1U);
  const auto& load = std::get<LoadSnapshot>(options.commands[0]).value;
  EXPECT_EQ(load.snapshot_path, "s");
  EXPECT_EQ(load.backend, MemoryBackend::File);
  EXPECT_EQ(load.backend_paths, std::vector<std::string>{"m"});
  EXPECT_TRUE(load.resume_vm);
  EXPECT_FALSE(load.clock_realtime);
  EXPECT_TRUE(load.track_dirty_pages);
  EXPECT_TRUE(load.allow_changed_drives);
  EXPECT_EQ(load.paths, StatePaths::Named);
  EXPECT_EQ(load.huge_pages, HugePages::Explicit2M);
  ASSERT_EQ(load.network_overrides.size(), 2U);
  EXPECT_EQ(load.network_overrides[1].host_dev_name, "t");
  ASSERT_EQ(load.drive_overrides.size(), 1U);
  EXPECT_EQ(load.drive_overrides[0].path_on_host, "[copy]");
  EXPECT_EQ(options.api_sock, "/a");
  EXPECT_EQ(options.common.id, "clone-3");
  EXPECT_EQ(options.common.logger.level, LogLevel::Warning);
}

TEST(Options, RestoreIsPlainWhereNothingElseIsSaid) {
  const auto options = std::get<RunOptions>(parse({"restore", "-s", "s", "--page-server", "/p"}));
  const auto& load = std::get<LoadSnapshot>(options.commands.at(0)).value;
  EXPECT_EQ(load.backend, MemoryBackend::Uffd);
  EXPECT_EQ(load.backend_paths, std::vector<std::string>{"/p"});
  EXPECT_TRUE(load.clock_realtime);
  EXPECT_FALSE(load.allow_changed_drives);
  EXPECT_FALSE(load.track_dirty_pages);
  EXPECT_EQ(load.huge_pages, std::nullopt);
  EXPECT_FALSE(options.api_sock);
}

TEST(Options, RestoreTrustsAStateFilesPathsOnlyWhereItIsTold) {
  const auto options = std::get<RunOptions>(parse({"restore", "-s", "s", "-m", "m", "--trust-paths"}));
  EXPECT_EQ(std::get<LoadSnapshot>(options.commands.at(0)).value.paths, StatePaths::Trusted);
}

TEST(Options, ARestoredMachineMayGoBackWhereThatIsSaid) {
  const auto load = [](std::vector<const char*> more) {
    std::vector<const char*> words = {"restore", "-s", "s", "-m", "m"};
    words.insert(words.end(), more.begin(), more.end());
    return std::get<LoadSnapshot>(std::get<RunOptions>(parse(std::move(words))).commands.at(0)).value;
  };
  EXPECT_FALSE(load({}).revertible);
  EXPECT_TRUE(load({"--revertible"}).revertible);
  EXPECT_TRUE(load({"--revertible", "--working-set", "w"}).revertible);
  EXPECT_EQ(exit_code({"restore", "-s", "s", "--page-server", "/p", "--revertible"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "-s", "s", "-m", "m", "--record-working-set", "w", "--revertible"}),
            kExitBadArguments);
}

TEST(Options, RestoreNeedsAStateAndOneMemory) {
  EXPECT_EQ(exit_code({"restore", "--memory", "m"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "--state", "s"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "-s", "s", "-m", "m", "--page-server", "/p"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "-s", "s", "-m", "m", "--tap", "eth0"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "-s", "s", "-m", "m", "--drive", "d=a", "b"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "-s", "s", "-m", "m", "--kernel", "k"}), kExitBadArguments);
}

TEST(Options, OtherMachinesAreReachedByIdOrSocket) {
  EXPECT_EQ(std::get<RemoteOptions>(parse({"ps"})).verb, RemoteOptions::Verb::List);
  const auto pause = std::get<RemoteOptions>(parse({"pause", "vm-7"}));
  EXPECT_EQ(pause.verb, RemoteOptions::Verb::Pause);
  EXPECT_EQ(pause.machine, "vm-7");
  const auto stop = std::get<RemoteOptions>(parse({"stop", "/run/a", "--timeout", "5"}));
  EXPECT_EQ(stop.verb, RemoteOptions::Verb::Stop);
  EXPECT_EQ(stop.timeout_s, 5U);
  EXPECT_FALSE(stop.now);
  EXPECT_TRUE(std::get<RemoteOptions>(parse({"stop", "--now", "a"})).now);
  const auto revert = std::get<RemoteOptions>(parse({"revert", "vm-7"}));
  EXPECT_EQ(revert.verb, RemoteOptions::Verb::Revert);
  EXPECT_FALSE(revert.paused);
  EXPECT_TRUE(revert.clock_realtime);
  const auto held = std::get<RemoteOptions>(parse({"revert", "vm-7", "--paused", "--no-clock-realtime"}));
  EXPECT_TRUE(held.paused);
  EXPECT_FALSE(held.clock_realtime);
  const auto create =
      std::get<RemoteOptions>(parse({"snapshot", "create", "a", "--state", "s", "--memory", "m", "--diff"}));
  EXPECT_EQ(create.verb, RemoteOptions::Verb::Snapshot);
  EXPECT_EQ(create.state, "s");
  EXPECT_EQ(create.memory, "m");
  EXPECT_TRUE(create.diff);
  EXPECT_EQ(exit_code({"pause"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"stop", "a", "--timeout", "0"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"snapshot", "create", "a", "--state", "s"}), kExitBadArguments);
}

TEST(Options, SnapshotsAreMergedAndVerified) {
  const auto merge =
      std::get<MergeOptions>(parse({"snapshot", "merge", "--base", "b", "--diff", "d", "--output", "o"}));
  EXPECT_EQ(merge.base, "b");
  EXPECT_EQ(merge.diffs, std::vector<std::string>{"d"});
  EXPECT_EQ(merge.output, "o");
  const auto verify = std::get<VerifyOptions>(parse({"snapshot", "verify", "--state", "s", "--memory", "m"}));
  EXPECT_EQ(verify.state, "s");
  EXPECT_EQ(verify.memory, std::vector<std::string>{"m"});
  EXPECT_EQ(exit_code({"snapshot"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"snapshot", "take"}), kExitBadArguments);
  const auto sweep = std::get<SweepOptions>(parse({"snapshot", "sweep", "a", "b"}));
  EXPECT_EQ(sweep.directories, (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(sweep.dry_run);
  EXPECT_TRUE(std::get<SweepOptions>(parse({"snapshot", "sweep", "--dry-run", "a"})).dry_run);
  EXPECT_EQ(exit_code({"snapshot", "sweep"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"snapshot", "merge", "--base", "b", "--diff", "d"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"snapshot", "verify", "--state", "s"}), kExitBadArguments);
}

TEST(Options, OverlaysAreShownAndExported) {
  const auto info = std::get<DriveInfoOptions>(parse({"drive", "info", "a", "b", "--json"}));
  EXPECT_EQ(info.overlays, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(info.json);
  const auto exported = std::get<DriveExportOptions>(
      parse({"drive", "export", "--base", "b", "-b", "l", "--overlay", "o", "--output", "i"}));
  EXPECT_EQ(exported.bases, (std::vector<std::string>{"b", "l"}));
  EXPECT_EQ(exported.overlay, "o");
  EXPECT_EQ(exported.output, "i");
  EXPECT_EQ(exit_code({"drive"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"drive", "info"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"drive", "export", "--overlay", "o", "--output", "i"}), kExitBadArguments);
}

TEST(Options, MemoryInLayersIsNamedFromTheBaseOn) {
  const std::vector<std::string> layers = {"a", "b", "c"};
  const auto restore =
      std::get<RunOptions>(parse({"restore", "--state", "s", "--memory", "a", "--memory", "b", "-m", "c"}));
  EXPECT_EQ(std::get<LoadSnapshot>(restore.commands.at(0)).value.backend_paths, layers);
  const std::vector<const char*> files = {"--state", "s", "-m", "a", "-m", "b", "--memory", "c"};
  const auto with = [&](const char* verb) {
    std::vector<const char*> words = {"snapshot", verb};
    words.insert(words.end(), files.begin(), files.end());
    return parse(words);
  };
  EXPECT_EQ(std::get<VerifyOptions>(with("verify")).memory, layers);
  EXPECT_EQ(std::get<DescribeOptions>(with("describe")).memory, layers);
  EXPECT_EQ(std::get<DescribeOptions>(with("describe")).state, "s");
  const auto merge =
      std::get<MergeOptions>(parse({"snapshot", "merge", "-b", "a", "-d", "b", "-d", "c", "--output", "o"}));
  EXPECT_EQ(merge.diffs, (std::vector<std::string>{"b", "c"}));
  EXPECT_EQ(exit_code({"snapshot", "describe", "--state", "s"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "--state", "s", "-m", "a", "b"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"restore", "-s", "s", "-m", "a", "-m", "b", "--page-server", "/p"}), kExitBadArguments);
}

TEST(Options, AStateFileIsDescribedAndTheFormatNamed) {
  EXPECT_EQ(std::get<DescribeOptions>(parse({"--describe-snapshot", "s"})).state, "s");
  EXPECT_EQ(std::get<DescribeOptions>(parse({"--describe-snapshot", ""})).state, "");
  EXPECT_EQ(exit_code({"--describe-snapshot"}), kExitBadArguments);
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(exit_code({"--snapshot-version"}), 0);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "v1\n");
}

TEST(Options, DoctorTakesJson) { EXPECT_TRUE(std::get<DoctorOptions>(parse({"doctor", "--json"})).json); }

TEST(Options, DoctorPrintsFeaturesOfThisHostOrOfThoseInFiles) {
  const auto here = std::get<DoctorOptions>(parse({"doctor", "--cpu"}));
  EXPECT_TRUE(here.cpu);
  EXPECT_TRUE(here.cpu_files.empty());
  const auto files = std::get<DoctorOptions>(parse({"doctor", "--cpu", "a.json", "b.json"}));
  EXPECT_EQ(files.cpu_files, (std::vector<std::string>{"a.json", "b.json"}));
  EXPECT_EQ(exit_code({"doctor", "a.json"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"doctor", "--cpu", "--json"}), kExitBadArguments);
}

TEST(Options, TopIsFollowedOrPrintedOnce) {
  const auto live = std::get<TopOptions>(parse({"top"}));
  EXPECT_FALSE(live.once);
  EXPECT_EQ(live.interval_s, 1);
  const auto once = std::get<TopOptions>(parse({"top", "--once", "--interval", "0.5"}));
  EXPECT_TRUE(once.once);
  EXPECT_EQ(once.interval_s, 0.5);
  for (const char* const bad : {"0", "0.09", "3601", "-1", "nan", "inf", "1s", ""})
    EXPECT_EQ(exit_code({"top", "--interval", bad}), kExitBadArguments) << bad;
}

TEST(Options, CompletionIsForAShellThatWeKnow) {
  EXPECT_EQ(std::get<CompletionOptions>(parse({"completion", "zsh"})).shell, Shell::Zsh);
  EXPECT_EQ(std::get<CompletionOptions>(parse({"completion", "fish"})).shell, Shell::Fish);
  EXPECT_EQ(exit_code({"completion"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"completion", "tcsh"}), kExitBadArguments);
}

TEST(Options, AMachineMayBeCalledLikeACommand) {
  for (const char* const name : {"top", "completion", "run", "stop"})
    EXPECT_EQ(std::get<RemoteOptions>(parse({"pause", name})).machine, name);
}

TEST(Options, HelpAndVersionEndWell) {
  EXPECT_EQ(exit_code({"--help"}), 0);
  EXPECT_EQ(exit_code({"run", "--help"}), 0);
  EXPECT_EQ(exit_code({"--version"}), 0);
}

/// What `mayfly WORDS...` prints and ends well.
std::string answer_to(std::vector<const char*> words) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(exit_code(std::move(words)), 0);
  return ::testing::internal::GetCapturedStdout();
}

TEST(Options, HelpListsEverythingHoweverItIsAskedFor) {
  const std::string help = answer_to({"--help"});
  EXPECT_NE(help.find("--seccomp-filter"), std::string::npos);
  EXPECT_NE(help.find("snapshot"), std::string::npos);
  EXPECT_EQ(answer_to({"--help=true"}), help);
  EXPECT_EQ(answer_to({"-h"}), help);
  EXPECT_EQ(answer_to({"--id", "vm-7", "--help"}), help);
}

TEST(Options, AnAnswerThatCannotBeWrittenIsAnError) {
  for (const char* const question : {"--version", "--snapshot-version", "--help"}) {
    std::fflush(stdout);
    const OwnedFd before{::dup(STDOUT_FILENO)};
    const OwnedFd full{::open("/dev/full", O_WRONLY | O_CLOEXEC)};
    ASSERT_TRUE(before && full);
    ::dup2(full.get(), STDOUT_FILENO);
    const int code = exit_code({question});
    ::dup2(before.get(), STDOUT_FILENO);
    std::cout.clear();
    std::clearerr(stdout);
    EXPECT_EQ(code, kExitError) << question;
  }
}

std::size_t widest_line_of(std::vector<const char*> words) {
  std::istringstream text{answer_to(std::move(words))};
  std::size_t widest = 0;
  for (std::string line; std::getline(text, line);) widest = std::max(widest, line.size());
  return widest;
}

TEST(Options, HelpFitsEightyColumns) {
  EXPECT_LE(widest_line_of({"--help"}), 80U);
  EXPECT_LE(widest_line_of({"run", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"restore", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"snapshot", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"stop", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"snapshot", "create", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"snapshot", "merge", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"snapshot", "sweep", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"snapshot", "verify", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"snapshot", "describe", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"drive", "info", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"drive", "export", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"doctor", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"top", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"completion", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"up", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"down", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"logs", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"exec", "--help"}), 80U);
  EXPECT_LE(widest_line_of({"cp", "--help"}), 80U);
}

TEST(Options, EveryWayToStartAMachineHasFiltersUnlessTold) {
  const auto filters_of = [](std::vector<const char*> words) {
    const auto options = parse(words);
    if (const auto* run = std::get_if<RunOptions>(&options)) return run->common.filters;
    return std::get<ServeOptions>(options).common.filters;
  };
  EXPECT_FALSE(filters_of({"--api-sock", "s"}).off);
  EXPECT_FALSE(filters_of({"--api-sock", "s"}).file);
  EXPECT_EQ(filters_of({"--seccomp-filter", "f"}).file, "f");
  EXPECT_FALSE(filters_of({"run", "--kernel", "k"}).off);
  EXPECT_TRUE(filters_of({"run", "--kernel", "k", "--no-seccomp"}).off);
  EXPECT_EQ(filters_of({"restore", "--state", "s", "--memory", "m", "--seccomp-filter", "f"}).file, "f");
}

TEST(Options, OfMayflyAloneAreUnderstoodHoweverTheyAreWritten) {
  const auto options = std::get<ServeOptions>(parse({"--id=vm-7", "--start-time-us=12", "--api-sock=/tmp/a.sock"}));
  EXPECT_EQ(options.common.id, "vm-7");
  EXPECT_EQ(options.common.start.wall_us, 12);
  EXPECT_EQ(options.api_sock, "/tmp/a.sock");
  EXPECT_EQ(exit_code({"--ids", "vm-7"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"--start-time", "12"}), kExitBadArguments);
  EXPECT_EQ(std::get<ServeOptions>(parse({"--metrics-path", "--id"})).common.metrics_path, "--id")
      << "a value that is called like an option";
}

TEST(Options, NoFiltersAndOthersAreNotAskedForTogether) {
  EXPECT_EQ(exit_code({"--no-seccomp", "--seccomp-filter", "/f"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"--seccomp-filter=/f", "--no-seccomp"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"run", "-k", "/k", "--seccomp-filter=/f", "--no-seccomp"}), kExitBadArguments);
}

TEST(Options, ADescriptionOfNoFileIsNotAMachine) {
  EXPECT_EQ(exit_code({"--describe-snapshot="}), kExitBadArguments);
  EXPECT_TRUE(std::holds_alternative<DescribeOptions>(parse({"--describe-snapshot", ""})));
}

TEST(Options, RefusesWhatItDoesNotKnowAndValuesThatAreNone) {
  EXPECT_EQ(exit_code({"--nonsense"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"--level", "loud"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"--http-api-max-payload-size", "0"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"--id", "a/b"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"--id", ""}), kExitBadArguments);
  EXPECT_EQ(exit_code({"--seccomp-filter", "f", "--no-seccomp"}), kExitBadArguments);
  EXPECT_EQ(exit_code({"run", "--kernel", "k", "--cpus", "many"}), kExitBadArguments);
}

}  // namespace
}  // namespace mayfly
