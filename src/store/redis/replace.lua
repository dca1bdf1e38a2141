-- Replaces the values of counters, all or none: none if one of them has changed since it was read.
--
--   KEYS[i]        the counter
--   ARGV[3i-2]     the value that was read; empty if there was none
--   ARGV[3i-1]     the value that takes its place
--   ARGV[3i]       how long that is kept (ms)
--
--   Answer: 1 if they were replaced, else 0.

for i = 1, #KEYS do
  if (redis.call('GET', KEYS[i]) or '') ~= ARGV[3 * i - 2] then
    return 0
  end
end
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[3 * i - 1], 'PX', ARGV[3 * i])
end
return 1
