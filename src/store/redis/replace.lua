-- Replaces the values of counters, all or none: none if one of them has changed since it was read.
--
--   KEYS[i]        the counter
--   ARGV[2i-1]     the value that was read
--   ARGV[2i]       the value that takes its place; its time to live stays as it is
--
--   Answer: 1 if they were replaced, else 0.

for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) ~= ARGV[2 * i - 1] then
    return 0
  end
end
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[2 * i], 'XX', 'KEEPTTL')
end
return 1
