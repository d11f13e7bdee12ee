# 31: what a tag pointed to stays known, the latest first, and can be pointed to again.
for number in one two three; do map demo v1 "$(digest $number)"; done
history() { k get itag demo:v1 -o jsonpath='{.status.items[*].image}'; }
is "$(digest three) $(digest two) $(digest one)" "$(history)" "the history"
is "3" "$(k get itag demo:v1 --no-headers | awk '{print $4}')" "the history's length in the table"
for field in created generation image dockerImageReference; do
  [ -n "$(k get is demo -o jsonpath="{.status.tags[0].items[2].$field}")" ] || fail "no $field"
done

k patch is demo --type=merge \
  -p "{\"spec\":{\"tags\":[{\"name\":\"v1\",\"from\":{\"kind\":\"ImageStreamImage\",\"name\":\"demo@$(digest one)\"}}]}}"
is "$(digest one)" "$(image demo:v1)" "the image after rolling back"
is "$(digest one) $(digest three) $(digest two) $(digest one)" "$(history)" "the history after it"
