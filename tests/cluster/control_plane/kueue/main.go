// Kueue's queues, scheduler and PyTorchJob controller, wired as the published main does it, but with webhooks that
// nobody calls: that main waits for certificates in a cluster's secrets and serves on every interface of the machine.
package main

import (
	"context"
	"flag"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	configapi "sigs.k8s.io/kueue/apis/config/v1beta2"
	kueuealpha "sigs.k8s.io/kueue/apis/kueue/v1alpha1"
	kueue "sigs.k8s.io/kueue/apis/kueue/v1beta2"
	qcache "sigs.k8s.io/kueue/pkg/cache/queue"
	schdcache "sigs.k8s.io/kueue/pkg/cache/scheduler"
	"sigs.k8s.io/kueue/pkg/config"
	"sigs.k8s.io/kueue/pkg/constants"
	"sigs.k8s.io/kueue/pkg/controller/core"
	"sigs.k8s.io/kueue/pkg/controller/core/indexer"
	"sigs.k8s.io/kueue/pkg/controller/jobframework"
	"sigs.k8s.io/kueue/pkg/controller/jobs/kubeflow/jobs/pytorchjob"
	tasindexer "sigs.k8s.io/kueue/pkg/controller/tas/indexer"
	"sigs.k8s.io/kueue/pkg/resources"
	"sigs.k8s.io/kueue/pkg/scheduler"
	preemptexpectations "sigs.k8s.io/kueue/pkg/scheduler/preemption/expectations"
	"sigs.k8s.io/kueue/pkg/util/kubeversion"
)

func main() {
	file := flag.String("config", "", "file with Kueue's configuration")
	certificates := flag.String("certificates", "", "empty folder for the webhooks' certificate")
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseDevMode(true)))

	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, kueue.AddToScheme, kueuealpha.AddToScheme, configapi.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	utilruntime.Must(jobframework.ForEachIntegration(func(_ string, cb jobframework.IntegrationCallbacks) error {
		if cb.AddToScheme == nil {
			return nil
		}
		return cb.AddToScheme(scheme)
	}))
	options, cfg, err := config.Load(scheme, *file)
	end(err)
	options.WebhookServer = webhooks(*certificates)
	ctx := ctrl.SetupSignalHandler()
	manager, err := ctrl.NewManager(ctrl.GetConfigOrDie(), options)
	end(err)
	end(setup(ctx, manager, &cfg))
	end(manager.Start(ctx))
}

func webhooks(folder string) webhook.Server {
	certificate, key, err := cert.GenerateSelfSignedCertKey("localhost", nil, nil)
	end(err)
	end(os.WriteFile(filepath.Join(folder, "tls.crt"), certificate, 0o600))
	end(os.WriteFile(filepath.Join(folder, "tls.key"), key, 0o600))
	return webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: -1, CertDir: folder})
}

func setup(ctx context.Context, manager ctrl.Manager, cfg *configapi.Configuration) error {
	formatter := resources.NewResourceFormatter()
	cache := schdcache.New(manager.GetClient(), schdcache.WithResourceFormatter(formatter))
	requeuer := qcache.NewRequeuer()
	if err := manager.Add(requeuer); err != nil {
		return err
	}
	expectations := preemptexpectations.New()
	queues := qcache.NewManager(manager.GetClient(), cache, requeuer,
		qcache.WithPodsReadyRequeuingTimestamp(configapi.EvictionTimestamp),
		qcache.WithResourceFormatter(formatter),
		qcache.WithPreemptionExpectations(expectations))
	if err := indexer.Setup(ctx, manager.GetFieldIndexer()); err != nil {
		return err
	}
	if err := tasindexer.SetupIndexes(ctx, manager.GetFieldIndexer()); err != nil {
		return err
	}
	frameworks := jobframework.WithEnabledFrameworks([]string{pytorchjob.FrameworkName})
	if err := jobframework.SetupIndexes(ctx, manager.GetFieldIndexer(), frameworks); err != nil {
		return err
	}
	if _, err := core.SetupControllers(manager, queues, cache, cfg, core.SetupControllersOpts{
		PreemptionExpectations: expectations, ResourceFormatter: formatter,
	}); err != nil {
		return err
	}
	client, err := discovery.NewDiscoveryClientForConfig(manager.GetConfig())
	if err != nil {
		return err
	}
	version := kubeversion.NewServerVersionFetcher(client)
	if err := version.FetchServerVersion(); err != nil {
		return err
	}
	if err := jobframework.SetupControllers(ctx, manager, ctrl.Log,
		frameworks,
		jobframework.WithKubeServerVersion(version),
		jobframework.WithManagerName(constants.KueueName),
		jobframework.WithManagedJobsNamespaceSelector(labels.Everything()),
		jobframework.WithCache(cache),
		jobframework.WithQueues(queues),
	); err != nil {
		return err
	}
	go queues.CleanUpOnContext(ctx)
	go cache.CleanUpOnContext(ctx)
	return manager.Add(scheduler.New(queues, cache, manager.GetClient(),
		manager.GetEventRecorder(constants.AdmissionName),
		scheduler.WithPodsReadyRequeuingTimestamp(configapi.EvictionTimestamp),
		scheduler.WithQuotaCheckStrategy(configapi.QuotaCheckBlockUndeclared),
		scheduler.WithPreemptionExpectations(expectations),
		scheduler.WithResourceFormatter(formatter)))
}

func end(err error) {
	if err != nil {
		ctrl.Log.Error(err, "cannot go on")
		os.Exit(1)
	}
}
