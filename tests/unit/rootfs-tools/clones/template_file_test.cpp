#include "rootfs-tools/clones/template_file.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace mayfly::clones {
namespace {

using mayfly::testing::ScratchDirectory;

class TemplateFileTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& content) const { std::ofstream{path(name)} << content; }
  [[nodiscard]] std::string path(const std::string& name) const { return scratch_.file(name); }
  [[nodiscard]] std::string directory() const { return std::filesystem::path{path("x")}.parent_path(); }

  /// The files of a template, and what describes them.
  Template make() const {
    Template made{.directory = directory(),
                  .image = "sha256:1",
                  .names = {"app:1"},
                  .vcpus = 2,
                  .memory_mib = 256,
                  .ready_port = 8080,
                  .files = {}};
    for (const char* name : {kBaseName, kLayerName, kStateName, kMemoryName}) {
      write(name, name);
      made.files.push_back({.name = name, .size = std::string{name}.size(), .digest = "sha256:2"});
    }
    return made;
  }
  [[nodiscard]] std::string refusal() const {
    const auto read = read_template(directory());
    return read ? "" : read.error().message;
  }

 private:
  ScratchDirectory scratch_;
};

TEST_F(TemplateFileTest, IsReadAsItWasWritten) {
  const Template made = make();
  write("template.json", to_json(made));
  const auto read = read_template(directory() + "//");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->directory, directory());
  EXPECT_EQ(read->image, "sha256:1");
  EXPECT_EQ(read->names, made.names);
  EXPECT_EQ(read->vcpus, 2U);
  EXPECT_EQ(read->memory_mib, 256U);
  EXPECT_EQ(read->ready_port, 8080);
  EXPECT_EQ(to_json(*read), to_json(made));
  EXPECT_FALSE(read->has(kWorkingSetName));
}

TEST_F(TemplateFileTest, RefusesWhatIsNotWhole) {
  EXPECT_NE(refusal().find("is it a directory of mayfly-template build?"), std::string::npos) << refusal();
  Template made = make();
  write("template.json", to_json(made));
  write(kMemoryName, "cut");
  EXPECT_NE(refusal().find("memory has 3 bytes and template.json says 6"), std::string::npos) << refusal();
  std::filesystem::remove(path(kMemoryName));
  EXPECT_NE(refusal().find("memory cannot be looked at"), std::string::npos) << refusal();
  made.files.pop_back();
  write("template.json", to_json(made));
  EXPECT_NE(refusal().find("files has no memory"), std::string::npos) << refusal();
}

TEST_F(TemplateFileTest, RefusesLinks) {
  write("template.json", to_json(make()));
  std::filesystem::rename(path(kBaseName), path("elsewhere"));
  std::filesystem::create_symlink(path("elsewhere"), path(kBaseName));
  EXPECT_NE(refusal().find("base is no file"), std::string::npos) << refusal();
}

TEST_F(TemplateFileTest, RefusesNamesThatLeadOutOfIt) {
  for (const char* name : {"../passwd", "", ".", "a/b"}) {
    Template made = make();
    made.files.push_back({.name = name, .size = 0});
    write("template.json", to_json(made));
    EXPECT_NE(refusal().find("a name without a slash"), std::string::npos) << name << ": " << refusal();
  }
}

TEST_F(TemplateFileTest, RefusesValuesThatAreNone) {
  std::string text = to_json(make());
  for (const auto& [what, instead] : {std::pair{R"("version":1)", R"("version":2)"},
                                      {R"("vcpu_count":2)", R"("vcpu_count":33)"},
                                      {R"("vcpu_count":2)", R"("vcpu_count":"2")"},
                                      {R"("ready_port":8080)", R"("ready_port":65536)"},
                                      {R"("size_bytes":4)", R"("size_bytes":-1)"},
                                      {R"("machine")", R"("other")"}}) {
    std::string changed = text;
    changed.replace(changed.find(what), std::string_view{what}.size(), instead);
    write("template.json", changed);
    EXPECT_NE(refusal(), "") << instead;
  }
}

TEST_F(TemplateFileTest, AsksForAClone) {
  Template made = make();
  EXPECT_EQ(load_request(made, {.files = "/t", .own = "/o"}),
            R"({"snapshot_path":"/t/state","mem_backend":{"backend_type":"File","backend_path":"/t/memory"},)"
            R"("resume_vm":true,"paths":"Named","drive_overrides":[{"drive_id":"base","path_on_host":"/t/base"},)"
            R"({"drive_id":"layer","path_on_host":"/o/overlay","base_paths":["/t/layer"]}],)"
            R"("channel_overrides":[{"port":1024,"uds_path":"/o/agent.sock"}]})");
  EXPECT_NE(load_request(made, {.files = "/t", .own = "/o"}, true)
                .find(R"("working_set":{"mode":"Record","path":"/o/working-set"})"),
            std::string::npos);
  made.files.push_back({.name = kWorkingSetName, .size = 1});
  EXPECT_NE(
      load_request(made, {.files = "", .own = ""}).find(R"("working_set":{"mode":"Replay","path":"/working-set"})"),
      std::string::npos);
}

}  // namespace
}  // namespace mayfly::clones
