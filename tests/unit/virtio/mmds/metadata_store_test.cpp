#include "virtio/mmds/metadata_store.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using Fault = MetadataStore::Fault;
using Format = MetadataStore::Format;

JsonValue json(std::string_view text) {
  auto value = parse_json(text, "the test's text");
  EXPECT_TRUE(value) << text;
  return value ? std::move(*value) : JsonValue{};
}

MetadataStore store_of(std::string_view text) {
  MetadataStore store;
  EXPECT_TRUE(store.put(json(text)));
  return store;
}

constexpr std::string_view kExample = R"({
  "latest": {"meta-data": {"ami-id": "ami-1", "network": {"macs": {"02:29:96:8f:6a:2d": {"device-number": "13"}}},
                           "public-keys": ["first", "second"], "a/b~c": "escaped"},
             "user-data": "line 1\nline 2"},
  "age": 43, "balance": -24, "share": 12.5, "yes": true, "nothing": null})";

TEST(MetadataStore, IsEmptyAtFirstAndHasNoValues) {
  MetadataStore store;
  EXPECT_EQ(store.json(), "{}");
  EXPECT_EQ(store.get("/", Format::Json), std::unexpected(Fault::NotFound));
  EXPECT_EQ(store.get("", Format::Imds), std::unexpected(Fault::NotFound));
}

TEST(MetadataStore, GivesValuesAsJson) {
  const MetadataStore store = store_of(kExample);
  EXPECT_EQ(store.get("/latest/meta-data/ami-id", Format::Json), R"("ami-1")");
  EXPECT_EQ(store.get("/latest/meta-data/network", Format::Json),
            R"({"macs":{"02:29:96:8f:6a:2d":{"device-number":"13"}}})");
  EXPECT_EQ(store.get("/latest/meta-data/public-keys", Format::Json), R"(["first","second"])");
  EXPECT_EQ(store.get("/age", Format::Json), "43");
  EXPECT_EQ(store.get("/balance", Format::Json), "-24");
  EXPECT_EQ(store.get("/share", Format::Json), "12.5");
  EXPECT_EQ(store.get("/yes", Format::Json), "true");
  EXPECT_EQ(store.get("/nothing", Format::Json), "null");
  EXPECT_EQ(store.get("/", Format::Json), store.json());
}

TEST(MetadataStore, GivesStringsAndNamesAsText) {
  const MetadataStore store = store_of(kExample);
  EXPECT_EQ(store.get("/latest", Format::Imds), "meta-data/\nuser-data");
  EXPECT_EQ(store.get("/latest/meta-data/", Format::Imds), "a/b~c\nami-id\nnetwork/\npublic-keys");
  EXPECT_EQ(store.get("/latest/user-data", Format::Imds), "line 1\nline 2");
  EXPECT_EQ(store.get("/", Format::Imds), "age\nbalance\nlatest/\nnothing\nshare\nyes");
  EXPECT_EQ(store_of("{}").get("/", Format::Imds), "");
  for (const std::string_view path :
       {"/age", "/balance", "/share", "/yes", "/nothing", "/latest/meta-data/public-keys"})
    EXPECT_EQ(store.get(path, Format::Imds), std::unexpected(Fault::Unsupported)) << path;
}

TEST(MetadataStore, PathsArePointersInWhichSlashesMayBeRepeated) {
  const MetadataStore store = store_of(kExample);
  for (const std::string_view path :
       {"/latest/meta-data/ami-id", "//latest///meta-data/ami-id", "/latest/meta-data/ami-id/",
        "/latest/meta-data/ami-id//", "latest/meta-data/ami-id"})
    EXPECT_EQ(store.get(path, Format::Imds), "ami-1") << path;
  EXPECT_EQ(store.get("/latest/meta-data/public-keys/1/", Format::Imds), "second");
  EXPECT_EQ(store.get("/latest/meta-data/a~1b~0c", Format::Imds), "escaped");
}

TEST(MetadataStore, WhatIsNotThereIsNotFound) {
  const MetadataStore store = store_of(kExample);
  for (const std::string_view path :
       {"/Latest", "/lates", "/latest/meta-data/ami-id/more", "/latest/meta-data/public-keys/2",
        "/latest/meta-data/public-keys/00", "/latest/meta-data/public-keys/01", "/latest/meta-data/public-keys/+1",
        "/latest/meta-data/public-keys/-1", "/latest/meta-data/public-keys/1x", "/latest/meta-data/public-keys/-",
        "/latest/meta-data/public-keys/99999999999999999999999", "/latest/meta-data/a~2b", "/latest/meta-data/a~",
        "/age/0", "/nothing/x", "/latest?x", "/~01"}) {
    EXPECT_EQ(store.get(path, Format::Json), std::unexpected(Fault::NotFound)) << path;
  }
}

TEST(MetadataStore, OfMembersWithOneNameTheLastCounts) {
  EXPECT_EQ(store_of(R"({"b":1,"a":{"x":1,"x":2},"b":[{"y":1,"y":3}],"b":{"z":0}})").json(),
            R"({"a":{"x":2},"b":{"z":0}})");
}

TEST(MetadataStore, DocumentsNestAsDeepAsTheParserTakesThem) {
  std::string text = "1";
  for (std::size_t i = 0; i < kMaximumJsonDepth; ++i) text = R"({"a":)" + text + '}';
  MetadataStore store = store_of(text);
  EXPECT_EQ(store.json(), text);
  std::string changed = text;
  changed.replace(changed.find('1'), 1, "2");
  EXPECT_TRUE(store.patch(json(changed)));
  std::string path;
  for (std::size_t i = 0; i < kMaximumJsonDepth; ++i) path += "/a";
  EXPECT_EQ(store.get(path, Format::Json), "2");
}

TEST(MetadataStore, OnlyObjectsAreMetadata) {
  MetadataStore store = store_of(R"({"a":1})");
  for (const std::string_view text : {"null", "[]", "\"text\"", "1", "true"}) {
    const auto put = store.put(json(text));
    ASSERT_FALSE(put) << text;
    EXPECT_EQ(put.error().kind, ErrorKind::InvalidArgument);
    EXPECT_FALSE(store.patch(json(text))) << text;
  }
  EXPECT_EQ(store.json(), R"({"a":1})");
}

TEST(MetadataStore, APatchNeedsADocument) {
  MetadataStore store;
  const auto patched = store.patch(json(R"({"a":1})"));
  ASSERT_FALSE(patched);
  EXPECT_EQ(patched.error().kind, ErrorKind::State);
  EXPECT_EQ(store.json(), "{}");
}

TEST(MetadataStore, WhatDoesNotFitChangesNothing) {
  MetadataStore store{20};
  ASSERT_TRUE(store.put(json(R"({"a":"12345678901"}   )")));
  EXPECT_EQ(store.json().size(), 19U);
  ASSERT_TRUE(store.patch(json(R"({"a":"123456789012"})")));
  const auto patched = store.patch(json(R"({"b":1})"));
  ASSERT_FALSE(patched);
  EXPECT_EQ(patched.error().kind, ErrorKind::TooLarge);
  EXPECT_EQ(patched.error().message, "metadata may have 20 bytes, and this would be 26; --mmds-size-limit allows more");
  EXPECT_FALSE(store.put(json(R"({"a":"1234567890123"})")));
  EXPECT_EQ(store.json(), R"({"a":"123456789012"})");
  EXPECT_TRUE(store.patch(json(R"({"a":null,"b":1})")));
  EXPECT_EQ(store.json(), R"({"b":1})");
}

/// RFC 7396, appendix A, where both are objects; and section 3.
TEST(MetadataStore, PatchesAsTheSpecificationsExamplesDo) {
  constexpr std::string_view kExamples[][3] = {
      {R"({"a":"b"})", R"({"a":"c"})", R"({"a":"c"})"},
      {R"({"a":"b"})", R"({"b":"c"})", R"({"a":"b","b":"c"})"},
      {R"({"a":"b"})", R"({"a":null})", R"({})"},
      {R"({"a":"b","b":"c"})", R"({"a":null})", R"({"b":"c"})"},
      {R"({"a":["b"]})", R"({"a":"c"})", R"({"a":"c"})"},
      {R"({"a":"c"})", R"({"a":["b"]})", R"({"a":["b"]})"},
      {R"({"a":{"b":"c"}})", R"({"a":{"b":"d","c":null}})", R"({"a":{"b":"d"}})"},
      {R"({"a":[{"b":"c"}]})", R"({"a":[1]})", R"({"a":[1]})"},
      {R"({"e":null})", R"({"a":1})", R"({"a":1,"e":null})"},
      {R"({})", R"({"a":{"bb":{"ccc":null}}})", R"({"a":{"bb":{}}})"},
      {R"({"a":{"b":1}})", R"({"a":[null,{"c":null}]})", R"({"a":[null,{"c":null}]})"},
      {R"({"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],
           "content":"This will be unchanged"})",
       R"({"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]})",
       R"({"author":{"givenName":"John"},"content":"This will be unchanged","phoneNumber":"+01-123-456-7890",)"
       R"("tags":["example"],"title":"Hello!"})"},
  };
  for (const auto& [before, patch, after] : kExamples) {
    MetadataStore store = store_of(before);
    EXPECT_TRUE(store.patch(json(patch))) << patch;
    EXPECT_EQ(store.json(), after) << patch;
  }
}

TEST(MetadataStore, APatchInAnyOrderIsMergedInOrder) {
  MetadataStore store = store_of(R"({"b":1,"d":2,"f":3})");
  ASSERT_TRUE(store.patch(json(R"({"g":9,"a":0,"e":null,"d":null,"c":{"y":1,"x":null},"f":4,"g":5})")));
  EXPECT_EQ(store.json(), R"({"a":0,"b":1,"c":{"y":1},"f":4,"g":5})");
  EXPECT_EQ(store.get("/c/y", Format::Json), "1");
  EXPECT_EQ(store.get("/g", Format::Json), "5");
}

}  // namespace
}  // namespace mayfly
