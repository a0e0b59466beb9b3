#include "rootfs-tools/image/layout.h"

#include "rootfs-tools/image/digest.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/rootfs-tools/image/archives.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <new>
#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

constexpr std::string_view kName = R"(,"annotations":{"org.opencontainers.image.ref.name":")";

std::string named(const std::string& descriptor, std::string_view name) {
  return descriptor + std::string{kName} + std::string{name} + "\"}}";
}

std::string replaced(std::string text, std::string_view what, std::string_view with) {
  const std::size_t at = text.find(what);
  if (at == std::string::npos) throw std::runtime_error{"nothing to replace"};
  return text.replace(at, what.size(), with);
}

MadeImage image_with(const std::string& content, std::string architecture = "amd64") {
  return {.layers = {{.tar = TarBuilder{}.file("content", content).finish()}}, .architecture = std::move(architecture)};
}

class LayoutTest : public ::testing::Test {
 protected:
  Result<FoundImage> find(const Files& files, std::optional<std::string> name = {},
                          const char* platform = "linux/amd64", const ImageLimits& limits = {}) {
    mayfly::testing::make_file(path_, tar_of(files));
    return find_in_archive(std::move(name), platform, limits);
  }
  Result<FoundImage> find_in_archive(std::optional<std::string> name = {}, const char* platform = "linux/amd64",
                                     const ImageLimits& limits = {}) {
    auto opened = ImageFiles::open(path_, {}, scratch_.file("."));
    if (!opened) return propagate(opened);
    return find_image(
        *opened,
        {.path = "app.tar", .name = std::move(name), .platform = parse_platform(platform).value(), .limits = limits});
  }
  std::string refusal(const Files& files, std::optional<std::string> name = {}, const char* platform = "linux/amd64") {
    const auto found = find(files, std::move(name), platform);
    return found ? "" : found.error().message;
  }
  /// Which of image_with() it is.
  std::string content(const Result<FoundImage>& image) {
    if (!image) return image.error().message;
    std::string text;
    for (const LayerBlob& each : image->layers) text += read_part(each.part, 1 << 20, "layer").value().substr(512, 5);
    return text;
  }

  mayfly::testing::ScratchDirectory scratch_;
  std::string path_ = scratch_.file("app.tar");
};

TEST_F(LayoutTest, FindsTheOnlyImageOfALayout) {
  Files files;
  MadeImage image = image_with("first");
  image.layers.push_back({.tar = TarBuilder{}.file("c", "again").finish()});
  image.layers.back().packed = image.layers.back().tar;
  const std::string descriptor = add_image(files, image);
  add_index(files, {named(descriptor, "latest")});
  const auto found = find(files);
  EXPECT_EQ(content(found), "firstagain");
  EXPECT_EQ(found->names, std::vector<std::string>{"latest"});
  EXPECT_TRUE(descriptor.contains(found->digest));
  EXPECT_EQ(found->config_digest, digest_of(found->config));
  EXPECT_EQ(found->layers[0].diff_id, digest_of(image.layers[0].tar));
  EXPECT_EQ(found->layers[0].digest, digest_of(image.layers[0].tar));
}

TEST_F(LayoutTest, FindsAnImageByNameOrDigest) {
  Files files;
  const std::string one = add_image(files, image_with("image1"));
  const std::string two = add_image(files, image_with("image2"));
  add_index(files, {named(one, "docker.io/library/app:latest"), named(two, "app:2")});
  EXPECT_EQ(content(find(files, "app")), "image");
  EXPECT_EQ(find(files, "app")->names, std::vector<std::string>{"docker.io/library/app:latest"});
  EXPECT_EQ(find(files, "docker.io/library/app:2")->names, std::vector<std::string>{"app:2"});
  const std::string digest = one.substr(one.find("sha256:"), 71);
  EXPECT_EQ(find(files, digest)->digest, digest);
  EXPECT_EQ(refusal(files), "--image app.tar has 2 images; choose one by --name: app:2, docker.io/library/app:latest");
  EXPECT_EQ(refusal(files, "other"),
            "--name other: there is no such image in app.tar; it has app:2, docker.io/library/app:latest");
}

TEST_F(LayoutTest, ImagesWithoutNamesAreListedByDigest) {
  Files files;
  const std::string one = add_image(files, image_with("image1"));
  const std::string two = add_image(files, image_with("image2"));
  add_index(files, {one + "}", named(two, "two")});
  EXPECT_EQ(refusal(files),
            "--image app.tar has 2 images; choose one by --name: " + one.substr(one.find("sha256:"), 71) + ", two");
  add_index(files, {named(one, "same"), named(two, "same")});
  EXPECT_TRUE(refusal(files, "same").starts_with("--image app.tar has 2 images; choose one by --name: sha256:"));
}

TEST_F(LayoutTest, OneImageMayHaveSeveralNames) {
  Files files;
  const std::string image = add_image(files, image_with("first"));
  add_index(files, {named(image, "a"), named(image, "b")});
  EXPECT_EQ(find(files)->names, (std::vector<std::string>{"a", "b"}));
}

TEST_F(LayoutTest, ChoosesThePlatformOfAnIndexWithinAnIndex) {
  Files files;
  const std::string amd =
      add_image(files, image_with("amd64")) + R"(,"platform":{"os":"linux","architecture":"amd64"}})";
  const std::string arm = add_image(files, image_with("arm64", "arm64")) +
                          R"(,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}})";
  const std::string about =
      add_image(files, image_with("about")) + R"(,"platform":{"os":"unknown","architecture":"unknown"}})";
  const std::string inner = add_blob(files, fmt::format(R"({{"manifests":[{},{},{}]}})", amd, arm, about),
                                     "application/vnd.oci.image.index.v1+json");
  const std::string outer = add_blob(files, fmt::format(R"({{"manifests":[{}}}]}})", inner),
                                     "application/vnd.docker.distribution.manifest.list.v2+json");
  add_index(files, {named(outer, "app")});
  EXPECT_EQ(content(find(files)), "amd64");
  EXPECT_EQ(find(files)->names, std::vector<std::string>{"app"});
  EXPECT_EQ(content(find(files, "app", "linux/arm64")), "arm64");
  EXPECT_EQ(content(find(files, "app", "linux/arm64/v8")), "arm64");
  EXPECT_EQ(refusal(files, "app", "linux/arm64/v7"),
            "--platform linux/arm64/v7: there is no image for it in app.tar, but for linux/amd64, linux/arm64/v8");
}

TEST_F(LayoutTest, TheConfigurationTellsThePlatformWhereTheIndexDoesNot) {
  Files files;
  const std::string amd = add_image(files, image_with("amd64"));
  const std::string arm = add_image(files, image_with("arm64", "arm64"));
  add_index(files, {named(amd, "app"), named(arm, "app")});
  EXPECT_EQ(content(find(files, "app", "linux/arm64")), "arm64");
  EXPECT_EQ(refusal(files, "app", "linux/s390x"),
            "--platform linux/s390x: there is no image for it in app.tar, but for linux/amd64, linux/arm64");
}

TEST_F(LayoutTest, AnIndexThatLies) {
  Files files;
  const std::string arm =
      add_image(files, image_with("arm64", "arm64")) + R"(,"platform":{"os":"linux","architecture":"amd64"}})";
  add_index(files, {arm});
  EXPECT_EQ(refusal(files), "--platform linux/amd64: the image in app.tar is for linux/arm64");
}

TEST_F(LayoutTest, RefusesIndexesWithoutEnd) {
  Files files;
  std::string index = add_image(files, image_with("first"));
  for (int depth = 0; depth < 10; ++depth)
    index = add_blob(files, R"({"manifests":[)" + index + "}]}", "application/vnd.oci.image.index.v1+json");
  add_index(files, {index + "}"});
  EXPECT_TRUE(refusal(files).ends_with("is an index within over 8 others; build the image anew"));
}

TEST_F(LayoutTest, VerifiesWhatDigestsSay) {
  Files files;
  const std::string descriptor = add_image(files, image_with("first"));
  add_index(files, {descriptor + "}"});
  for (const auto& [name, content] : files) {
    if (!name.starts_with("blobs/") || !content.starts_with("{")) continue;
    Files changed = files;
    changed[name] += " ";
    EXPECT_TRUE(refusal(changed).contains("copy or fetch the image again")) << name << ": " << refusal(changed);
    changed[name] = replaced(content, "{\"", "{ ");
    EXPECT_TRUE(refusal(changed).contains(" with digest sha256:")) << name << ": " << refusal(changed);
    changed.erase(name);
    EXPECT_EQ(refusal(changed), "--image " + path_ + " has no file '" + name + "'; copy or fetch the image again");
  }
}

TEST_F(LayoutTest, RefusesLayersThatItCannotHave) {
  const auto refusal_of = [&](std::string type) {
    Files files;
    MadeImage image = image_with("first");
    image.layers[0].type = std::move(type);
    add_index(files, {add_image(files, image) + "}"});
    const std::string text = refusal(files);
    return text.substr(std::min(text.find("the layer "), text.size()));
  };
  for (const char* const known :
       {"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"})
    EXPECT_EQ(refusal_of(known), "");
  EXPECT_TRUE(refusal_of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
                  .ends_with("which images do not contain; use an image without"));
  EXPECT_TRUE(refusal_of("application/vnd.oci.image.layer.nondistributable.v1.tar")
                  .ends_with("which images do not contain; use an image without"));
  EXPECT_TRUE(
      refusal_of("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").ends_with("; decrypt the image first"));
  EXPECT_TRUE(
      refusal_of("application/x-else").ends_with("is of the unknown type 'application/x-else'; build the image anew"));
}

TEST_F(LayoutTest, RefusesWhatIsNoContainerImage) {
  Files files;
  const std::string artifact = add_blob(files, "{}", "application/vnd.cncf.helm.config.v1+json");
  const std::string manifest = add_blob(files, R"({"schemaVersion":2,"layers":[],"config":)" + artifact + "}}",
                                        "application/vnd.oci.image.manifest.v1+json");
  add_index(files, {manifest + R"(,"platform":{"os":"linux","architecture":"amd64"}})"});
  EXPECT_TRUE(refusal(files).ends_with(
      "is no container image: its configuration is of type 'application/vnd.cncf.helm.config.v1+json'"));
  add_index(files, {add_blob(files, "{}", "application/vnd.docker.distribution.manifest.v1+json") + "}"});
  EXPECT_EQ(refusal(files),
            "--image app.tar: the layout has no image, but application/vnd.docker.distribution.manifest.v1+json; is it "
            "one of another kind?");
  EXPECT_EQ(
      refusal({{"a", "b"}}),
      "--image app.tar is no image: it has neither 'index.json' with 'oci-layout' nor 'manifest.json'; make one by "
      "skopeo copy, docker save or podman save");
}

/// A list of an image's contents or a signature, as ORAS and regctl write it.
std::string add_artifact(Files& files, const std::string& type) {
  const std::string config = add_blob(files, "{}", "application/vnd.oci.empty.v1+json");
  return add_blob(files, R"({"schemaVersion":2,"artifactType":")" + type + R"(","layers":[],"config":)" + config + "}}",
                  "application/vnd.oci.image.manifest.v1+json");
}

TEST_F(LayoutTest, ArtifactsBesideAnImageAreLeftOut) {
  Files files;
  const std::string image = named(add_image(files, image_with("first")), "v1");
  const std::string contents = add_artifact(files, "application/spdx+json");
  add_index(files, {contents + R"(,"artifactType":"application/spdx+json"})", image});
  EXPECT_EQ(content(find(files)), "first");
  EXPECT_EQ(find(files)->names, std::vector<std::string>{"v1"});
  const std::string referrers =
      add_blob(files, R"({"manifests":[)" + contents + "}," + add_artifact(files, "application/x-signature") + "}]}",
               "application/vnd.oci.image.index.v1+json");
  add_index(files, {image, named(referrers, "sha256-1234")});
  EXPECT_EQ(content(find(files)), "first");
  EXPECT_EQ(content(find(files, "v1")), "first");
  EXPECT_EQ(refusal(files, {}, "linux/arm64"),
            "--platform linux/arm64: there is no image for it in app.tar, but for linux/amd64");
  EXPECT_EQ(
      refusal(files, "sha256-1234"),
      "--image app.tar: the layout has no image, but application/spdx+json, application/x-signature; is it one of "
      "another kind?");
  add_index(files,
            {add_image(files, image_with("first")) + R"(,"artifactType":"application/vnd.oci.image.config.v1+json"})"});
  EXPECT_EQ(content(find(files)), "first") << "as the specification has it in lists of referrers";
}

TEST_F(LayoutTest, RefusesDocumentsOfTooManyValues) {
  Files files;
  add_index(files, {add_image(files, image_with("first")) + "}"});
  std::string zeros;
  for (int number = 0; number < 1 << 19; ++number) zeros += "0,";
  files["index.json"] = replaced(files["index.json"], "{", R"({"x":[)" + zeros + "0],");
  EXPECT_EQ(refusal(files), "--image app.tar: 'index.json' has over 524288 values; build the image anew");
}

TEST_F(LayoutTest, RefusesLongWordsThatItWouldKeep) {
  Files files;
  const std::string image = add_image(files, image_with("first"));
  for (const std::string_view field : {"os", "architecture", "variant"}) {
    add_index(files, {image + R"(,"platform":{")" + std::string{field} + R"(":")" + std::string(256, 'w') + R"("}})"});
    EXPECT_EQ(refusal(files), "--image app.tar: 'index.json': '" + std::string{field} +
                                  "' has 256 bytes, and 255 are allowed; build the image anew");
  }
  add_index(files, {add_blob(files, "", std::string(256, 't')) + "}"});
  EXPECT_EQ(refusal(files),
            "--image app.tar: 'index.json': 'mediaType' has 256 bytes, and 255 are allowed; build the image anew");
}

// (A sanitizer's memory is its own.)
#ifndef MAYFLY_SANITIZED
TEST_F(LayoutTest, HoldsNoMoreThanOneDocumentOfIndexesWithinIndexes) {
  Files files;
  std::string zeros;
  for (int number = 0; number < 500'000; ++number) zeros += "0,";
  std::string index = add_image(files, image_with("first"));
  for (int depth = 0; depth < 8; ++depth)
    index = add_blob(files, R"({"x":[)" + zeros + R"(0],"manifests":[)" + index + "}]}",
                     "application/vnd.oci.image.index.v1+json");
  add_index(files, {index + "}"});
  mayfly::testing::make_file(path_, tar_of(files));
  const pid_t child = ::fork();
  if (child == 0) {
    std::uint64_t pages = 0;
    std::ifstream{"/proc/self/statm"} >> pages;
    // A document takes 21 MB when it is parsed, and 50 meanwhile.
    const rlim_t most = pages * 4096 + (std::uint64_t{128} << 20);
    const rlimit limit{.rlim_cur = most, .rlim_max = most};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(3);
    try {
      ::_exit(find_in_archive() ? 0 : 1);
    } catch (const std::bad_alloc&) {
      ::_exit(2);
    }
  }
  ASSERT_GT(child, 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "2: over 128 MiB more: " << status;
}
#endif

TEST_F(LayoutTest, RefusesJsonThatReadersDisagreeAbout) {
  Files files;
  add_index(files, {add_image(files, image_with("first")) + "}"});
  const auto refusal_of_index = [&](std::string index) {
    Files changed = files;
    changed["index.json"] = std::move(index);
    return refusal(changed);
  };
  EXPECT_EQ(refusal_of_index(R"({"manifests":[],"manifests":[]})"),
            "--image app.tar: 'index.json': 'manifests' is there twice; make it anew");
  EXPECT_EQ(refusal_of_index(R"({"manifests":{}})"),
            "--image app.tar: 'index.json': 'manifests' must be an array; make it anew");
  EXPECT_EQ(refusal_of_index(R"({"manifests":[{"mediaType":"x","digest":"md5:1","size":1}]})"),
            "--image app.tar: 'index.json': the digest 'md5:1' is not sha256: and 64 digits; build the image anew");
  EXPECT_EQ(refusal_of_index(R"({"manifests":[{"mediaType":"x","digest":")" + digest_of("") + R"("}]})"),
            "--image app.tar: 'index.json': a descriptor has no 'size'; build the image anew");
  EXPECT_EQ(refusal_of_index("[]"), "--image app.tar: 'index.json' must be a JSON object");
  EXPECT_TRUE(refusal_of_index("{").contains("'index.json'"));
}

TEST_F(LayoutTest, RefusesAConfigurationThatDoesNotFitTheLayers) {
  Files files;
  MadeImage image = image_with("first");
  image.config = R"("rootfs":{"diff_ids":[]},"config":{})";
  add_index(files, {add_image(files, image) + "}"});
  EXPECT_TRUE(refusal(files).ends_with("'rootfs' is there twice; make it anew"));
  add_saved(files, image_with("first"), "app:1");
  Files saved;
  add_saved(saved, image_with("first"), "app:1");
  saved["manifest.json"] = replaced(saved["manifest.json"], "\"Layers\":[",
                                    "\"Layers\":[\"" + digest_of(image.layers[0].tar).substr(7) + "/layer.tar\",");
  EXPECT_TRUE(refusal(saved).ends_with("has 1 diff_ids for 2 layers; build the image anew")) << refusal(saved);
}

TEST_F(LayoutTest, ALongNameIsRefusedBeforeItIsCopied) {
  Files files;
  const std::string index = add_blob(files, R"({"manifests":[)" + add_image(files, image_with("first")) + "}]}",
                                     "application/vnd.oci.image.index.v1+json");
  add_index(files, {named(index, std::string(4096, 'n'))});
  EXPECT_EQ(refusal(files), "");
  add_index(files, {named(index, std::string(4097, 'n'))});
  EXPECT_EQ(refusal(files),
            "--image app.tar: 'index.json': a name has 4097 bytes, and 4096 are allowed; tag the image anew");
}

TEST_F(LayoutTest, NamesFitIntoATemplate) {
  Files files;
  const std::string image = add_image(files, image_with("first"));
  std::vector<std::string> descriptors;
  for (int number = 0; number < 33; ++number)
    descriptors.push_back(named(image, std::to_string(number) + std::string(4000, 'n')));
  add_index(files, descriptors);
  EXPECT_EQ(refusal(files), "--image app.tar: the names of the image have over 131072 bytes; tag it anew");
}

TEST_F(LayoutTest, ABlobThatIsNamedAgainAndAgainIsNotReadForHours) {
  Files files;
  const std::string none = add_blob(files, R"({"manifests":[])" + std::string(std::size_t{3} << 20, ' ') + "}",
                                    "application/vnd.oci.image.index.v1+json");
  add_index(files, std::vector<std::string>(100, none + "}"));
  EXPECT_EQ(refusal(files),
            "--image app.tar: over 268435456 bytes of indexes, manifests and configurations; build the image anew");
}

TEST_F(LayoutTest, CountsLayers) {
  Files files;
  MadeImage image = image_with("first");
  image.layers.resize(3, image.layers[0]);
  add_index(files, {add_image(files, image) + "}"});
  const auto found = find(files, {}, "linux/amd64", {.max_layers = 2});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().message, "--image app.tar has 3 layers, and 2 are allowed; --max-layers raises the limit");
}

TEST_F(LayoutTest, FindsWhatDockerSaved) {
  Files files;
  add_saved(files, image_with("first"), "app:1");
  const auto found = find(files);
  EXPECT_EQ(content(found), "first");
  EXPECT_EQ(found->names, std::vector<std::string>{"app:1"});
  EXPECT_EQ(found->digest, digest_of(found->config));
  EXPECT_EQ(found->layers[0].digest, "") << "the format has none";
  add_saved(files, image_with("again"), "other:2");
  EXPECT_EQ(content(find(files, "docker.io/library/other:2")), "again");
  EXPECT_EQ(refusal(files), "--image app.tar has 2 images; choose one by --name: app:1, other:2");
  EXPECT_EQ(refusal(files, "x"), "--name x: there is no such image in app.tar; it has app:1, other:2");
  EXPECT_EQ(refusal(files, "other:2", "linux/arm64"),
            "--platform linux/arm64: the image in app.tar is for linux/amd64");
}

TEST_F(LayoutTest, VerifiesTheConfigurationThatDockerSaved) {
  Files files;
  add_saved(files, image_with("first"), "app:1");
  for (auto& [name, content] : files)
    if (name.ends_with(".json") && name != "manifest.json") content += " ";
  EXPECT_TRUE(refusal(files).contains("has the digest sha256:")) << refusal(files);
}

TEST_F(LayoutTest, ReadsTheLayoutWhereAnArchiveHasBoth) {
  Files files;
  add_index(files, {named(add_image(files, image_with("first")), "app:1")});
  add_saved(files, image_with("first"), "app:1");
  const auto found = find(files, "app:1");
  EXPECT_EQ(content(found), "first");
  EXPECT_NE(found->layers[0].digest, "");
  EXPECT_NE(found->digest, found->config_digest);
}

TEST(ImageNames, PlatformsAreTwoOrThreeParts) {
  EXPECT_EQ(to_text(parse_platform("linux/arm/v7").value()), "linux/arm/v7");
  for (const char* const wrong : {"", "linux", "linux/", "/amd64", "a/b/c/d", "a//c"})
    EXPECT_EQ(parse_platform(wrong).error().message,
              "--platform '" + std::string{wrong} + "' must be OS/ARCHITECTURE, such as linux/amd64");
}

TEST(ImageNames, ReferencesAreCompletedAsDockerDoes) {
  EXPECT_TRUE(same_reference("app", "docker.io/library/app:latest"));
  EXPECT_TRUE(same_reference("me/app:1", "docker.io/me/app:1"));
  EXPECT_TRUE(same_reference("localhost/app", "localhost/app:latest"));
  EXPECT_TRUE(same_reference("host:5000/app", "host:5000/app:latest"));
  EXPECT_FALSE(same_reference("host:5000/app", "docker.io/host/app"));
  EXPECT_FALSE(same_reference("app:1", "app:2"));
  EXPECT_FALSE(same_reference("quay.io/app", "app"));
}

}  // namespace
}  // namespace mayfly::image
