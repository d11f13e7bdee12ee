# 37 and 33, as far as no node is needed: a Deployment gets the image of a tag by its digest, and
# streams are opened for lookup by their name.
map demo v1 "$(digest one)"
reference=$(k get istag demo:v1 -o jsonpath='{.image.dockerImageReference}')
k create deployment web --image=placeholder
k set image deployment/web "placeholder=$reference"
is "registry.example:5000/$NAMESPACE/demo@$(digest one)" \
  "$(k get deployment web -o jsonpath='{.spec.template.spec.containers[0].image}')" "its image"

k patch is demo --type=merge -p '{"spec":{"lookupPolicy":{"local":true}}}'
is true "$(k get istag demo:v1 -o jsonpath='{.lookupPolicy.local}')" "the lookup of its tags"

# From where others pull an image of another registry follows the policy of the tag.
map demo foreign "$(digest two)" q.io/team/demo
copy() {
  k create -f - <<END
apiVersion: image.alauda.io/v1
kind: ImageStreamTag
metadata: {name: "other:$1"}
tag: {from: {kind: ImageStreamTag, name: "demo:foreign"}, referencePolicy: {type: $1}}
END
  k get istag "other:$1" -o jsonpath='{.image.dockerImageReference}'
}
is "q.io/team/demo@$(digest two)" "$(copy Source | tail -1)" "where Source is pulled from"
is "registry.example:5000/$NAMESPACE/other@$(digest two)" "$(copy Local | tail -1)" "where Local is pulled from"
