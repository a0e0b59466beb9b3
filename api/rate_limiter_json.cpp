#include "api/schema.h"

namespace mayfly {
namespace {

void write_bucket(JsonWriter& json, std::string_view name, const std::optional<TokenBucketConfig>& bucket) {
  if (!bucket) return;
  json.key(name);
  write_token_bucket(json, *bucket);
}

}  // namespace

Result<TokenBucketConfig> read_token_bucket(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  TokenBucketConfig bucket{.size = fields.required("size", JsonWhole{}),
                           .refill_time_ms = fields.required("refill_time", JsonWhole{}),
                           .one_time_burst = fields.optional("one_time_burst", JsonWhole{}).value_or(0)};
  return fields.finish(bucket);
}

void write_token_bucket(JsonWriter& json, const TokenBucketConfig& bucket) {
  json.begin_object();
  json.field("size", bucket.size);
  json.field("refill_time", bucket.refill_time_ms);
  json.field("one_time_burst", bucket.one_time_burst);
  json.end_object();
}

Result<RateLimiterConfig> read_rate_limiter(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  RateLimiterConfig limiter{.bandwidth = fields.optional("bandwidth", read_token_bucket),
                            .ops = fields.optional("ops", read_token_bucket)};
  return fields.finish(limiter);
}

void write_rate_limiter(JsonWriter& json, std::string_view name, const std::optional<RateLimiterConfig>& limiter) {
  if (!limiter) return;
  json.key(name);
  json.begin_object();
  write_bucket(json, "bandwidth", limiter->bandwidth);
  write_bucket(json, "ops", limiter->ops);
  json.end_object();
}

}  // namespace mayfly
