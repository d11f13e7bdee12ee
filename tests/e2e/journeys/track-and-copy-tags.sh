# 30: within a stream a tag follows another; a copy in another stream stays with the image.
map demo v1 "$(digest one)"
k patch is demo --type=merge -p '{"spec":{"tags":[{"name":"stable","from":{"kind":"ImageStreamTag","name":"v1"}}]}}'
is "$(digest one)" "$(image demo:stable)" "what the tag follows"
map demo v1 "$(digest two)"
is "$(digest two)" "$(image demo:stable)" "what the tag follows when that has moved"

k create -f - <<END
apiVersion: image.alauda.io/v1
kind: ImageStreamTag
metadata: {name: "copy:v1"}
tag: {from: {kind: ImageStreamTag, name: "demo:v1"}}
END
is "$(digest two)" "$(image copy:v1)" "the copy"
map demo v1 "$(digest three)"
is "$(digest two)" "$(image copy:v1)" "the copy when its origin has moved"
refused "spec.tags[x].from.name: Not found" k patch is copy --type=merge \
  -p '{"spec":{"tags":[{"name":"x","from":{"kind":"ImageStreamTag","name":"none:v1"}}]}}'
