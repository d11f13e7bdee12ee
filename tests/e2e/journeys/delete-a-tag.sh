# 35: a tag goes, and its siblings stay, those of the same image, too.
map demo old "$(digest one)"
map demo new "$(digest one)"
k delete istag demo:old
refused "not found" k get istag demo:old
is "$(digest one)" "$(image demo:new)" "the sibling"
is new "$(k get is demo -o jsonpath='{.status.tags[*].tag}')" "the tags of the stream"
KUBECONFIG=$ADMIN kubectl get "images.image.alauda.io/$(digest one)" >/dev/null
refused "not found" k delete istag demo:old
k delete itag demo:new
is "" "$(k get is demo -o jsonpath='{.status.tags}')" "the tags when all are gone"
