# 26 and 16, as far as kubectl tells: what roles allow shows in `kubectl auth can-i`.
is yes "$(k auth can-i create imagestreams.image.alauda.io)" "an editor may make streams"
is yes "$(k auth can-i get imagestreams.image.alauda.io/demo --subresource=layers)" "and pull"
is yes "$(k auth can-i update imagestreams.image.alauda.io/demo --subresource=layers)" "and push"
is no "$(k auth can-i delete images.image.alauda.io || true)" "but not delete images"
metrics() { KUBECONFIG=$ADMIN kubectl auth can-i get registry.image.alauda.io --subresource=metrics "$@" || true; }
is yes "$(metrics)" "an administrator may read metrics"
is no "$(metrics --as=nobody)" "nobody in particular may not"

k create serviceaccount puller
account=system:serviceaccount:$NAMESPACE:puller
pull() { KUBECONFIG=$ADMIN k auth can-i get imagestreams.image.alauda.io/demo --subresource=layers --as="$account" || true; }
is no "$(pull)" "an account may not pull"
KUBECONFIG=$ADMIN k create rolebinding puller --clusterrole=system:image-puller --serviceaccount="$NAMESPACE:puller"
until [ "$(pull)" = yes ]; do :; done
refused Forbidden kubectl get is --namespace default
