#include "rootfs-tools/agent/host/place.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

TEST(FindAgent, TakesTheSocketThatItIsGiven) {
  const auto place = find_agent("", "/run/agent.sock").value();
  EXPECT_EQ(place.socket, "/run/agent.sock");
  EXPECT_EQ(place.process, 0);
}

TEST(FindAgent, IsBesideTheMachinesSocket) {
  EXPECT_EQ(find_agent("/run/vm/api.sock", "").value().socket, "/run/vm/agent.sock");
  EXPECT_TRUE(find_agent("no-such-machine", "").error().message.contains("no machine has the id no-such-machine"));
}

TEST(FindAgent, IsWhereTheConfigurationSaysThatTheMachineListens) {
  const auto found = [](const std::string& channels) {
    return agent_socket_in(R"({"boot-source":{},"channels":)" + channels + "}").value_or("none");
  };
  EXPECT_EQ(found(R"([{"port":80,"uds_path":"/80","listen":true},{"port":1024,"uds_path":"/a","listen":true}])"), "/a");
  EXPECT_EQ(found(R"([{"port":1024,"uds_path":"/a","listen":false},{"port":1024,"uds_path":"/a"}])"), "none");
  for (const char* const channels :
       {"[]", "{}", "null", R"([1,{"port":"1024"},{"port":1024,"listen":true,"uds_path":1}])"})
    EXPECT_EQ(found(channels), "none") << channels;
  for (const char* const config : {"", "no JSON", "[]", "{}"}) EXPECT_FALSE(agent_socket_in(config)) << config;
}

TEST(FindAgent, PathsOfAJailAreWithinItsRoot) {
  const RunningMachine jailed{.pid = 7, .socket = "/proc/7/root/api.sock", .own_socket = "/api.sock"};
  EXPECT_EQ(reached_from_here(jailed, "/run/agent.sock"), "/proc/7/root/run/agent.sock");
  EXPECT_EQ(reached_from_here(jailed, "agent.sock"), "/proc/7/cwd/agent.sock");
  const RunningMachine plain{.pid = 7, .socket = "/run/api.sock", .own_socket = "/run/api.sock"};
  EXPECT_EQ(reached_from_here(plain, "/run/agent.sock"), "/run/agent.sock");
  const RunningMachine relative{.pid = 7, .socket = "/home/api.sock", .own_socket = "api.sock"};
  EXPECT_EQ(reached_from_here(relative, "/run/agent.sock"), "/run/agent.sock");
  EXPECT_EQ(reached_from_here(RunningMachine{.socket = "api.sock"}, "agent.sock"), "agent.sock");
}

}  // namespace
}  // namespace mayfly::agent
